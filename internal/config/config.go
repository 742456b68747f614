// Package config reads the server's configuration file and fills in defaults.
// It decides nothing and starts nothing; main hands its parts to the packages
// that they are for.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"

	millpond "millpond.dev/millpond"
)

// Config is the whole file. Every field has a default; an unknown field is an
// error, so that a misspelt one is noticed.
type Config struct {
	// Listen is host:port of the one TLS listener.
	Listen string `yaml:"listen"`
	// Launcher is local or fake.
	Launcher string `yaml:"launcher"`
	// OnStop says what SIGTERM does with running VMs: keep or stop.
	OnStop string `yaml:"onStop"`
	// LogFormat is text or json; LogLevel debug, info, warn or error.
	LogFormat string   `yaml:"logFormat"`
	LogLevel  string   `yaml:"logLevel"`
	Regions   []Region `yaml:"regions"`
	// Tenants are further tenants beside the first one, each with an
	// administrator and a subscription of its own.
	Tenants []Tenant `yaml:"tenants"`
	VMSizes []VMSize `yaml:"vmSizes"`
	Quotas  Quotas   `yaml:"quotas"`
	Pools   Pools    `yaml:"pools"`
	// Galleries are the policies for images.
	Galleries Galleries `yaml:"galleries"`
	Nodes     Nodes     `yaml:"nodes"`
	Events    Events    `yaml:"events"`
	// Traces is where traces are sent by OTLP over HTTP, such as
	// http://127.0.0.1:4318; empty for what OTEL_EXPORTER_OTLP_ENDPOINT says.
	Traces string `yaml:"traces"`
	Local  Local  `yaml:"local"`
	Fake   Fake   `yaml:"fake"`
	// BlobService is the real blob service behind storage accounts.
	BlobService BlobService `yaml:"blobService"`
}

// BlobService is one account of a blob service, which this server alone uses.
type BlobService struct {
	// URL is the account's address: https://NAME.blob.core.windows.net, or
	// http://HOST:PORT/NAME of an emulator. Empty: there are no storage accounts.
	URL string `yaml:"url"`
	// KeyFile holds the account's key; it may be empty for Azurite's own account.
	KeyFile string `yaml:"keyFile"`
}

// Region is a place that accounts, disks and replicas are in.
type Region struct {
	Name        string `yaml:"name"`
	DisplayName string `yaml:"displayName"`
	// Stores are the folders or URLs (s3://…, azblob://…) that hold the region's
	// replicas; replica k of a version lies in store k modulo their number. Empty
	// means two folders in the data folder.
	Stores []string `yaml:"stores"`
}

// Tenant is a directory of its own: its principals and subscriptions are apart
// from those of other tenants.
type Tenant struct {
	// Name is also the name of the file with its administrator's credentials.
	Name string `yaml:"name"`
	// Domain is another name for it in sign-in addresses, such as contoso.example.
	Domain string `yaml:"domain"`
}

// VMSize adds a size to the built-in table or replaces one.
type VMSize struct {
	Name         string `yaml:"name"`
	VCPUs        int    `yaml:"vcpus"`
	MemoryMiB    int    `yaml:"memoryMiB"`
	TempDiskMiB  int64  `yaml:"tempDiskMiB"`
	MaxDataDisks int    `yaml:"maxDataDisks"`
	// CacheDiskGiB is what an ephemeral OS disk has to fit into; 0: it has none.
	CacheDiskGiB int `yaml:"cacheDiskGiB"`
}

// Quotas of each Batch account; Azure's defaults where it has one.
type Quotas struct {
	Pools      int `yaml:"pools"`
	Cores      int `yaml:"cores"`
	ActiveJobs int `yaml:"activeJobs"`
	// Accounts is per region and subscription.
	Accounts int `yaml:"accounts"`
}

// Pools holds the advice for large pools of the seed document.
type Pools struct {
	// NodesPerReplica is the number of nodes that one replica is good for.
	NodesPerReplica int `yaml:"nodesPerReplica"`
	// BootsPerReplica is how many nodes boot from one replica at the same time.
	BootsPerReplica int `yaml:"bootsPerReplica"`
	// Spares is how many machines are kept ready for each pool that does not say
	// itself (metadata millpond:spares).
	Spares int `yaml:"spares"`
	// MinutesPer1000Nodes is the resize timeout advised per 1000 nodes.
	MinutesPer1000Nodes int `yaml:"minutesPer1000Nodes"`
	// GrowOnArrival lets formulas that look at waiting tasks grow their pool when
	// tasks arrive, not only at their interval.
	GrowOnArrival bool `yaml:"growOnArrival"`
}

// Galleries are the policies for images. Each is allow, warn or refuse.
type Galleries struct {
	// Preflight says what becomes of an image in which the check finds what would
	// keep it from becoming a node. auto is refuse with the local launcher, and
	// allow with the fake one, which boots nothing.
	Preflight string `yaml:"preflight"`
	// EndOfLife says what becomes of a pool or machine from a version that is past
	// its end of life.
	EndOfLife string `yaml:"endOfLife"`
}

// PreflightPolicy resolves auto.
func (c Config) PreflightPolicy() string {
	switch {
	case c.Galleries.Preflight != "auto":
		return c.Galleries.Preflight
	case c.Launcher == "fake":
		return "allow"
	}
	return "refuse"
}

// Nodes holds the limits after which a node is not waited for any more.
type Nodes struct {
	BootLimit    Duration `yaml:"bootLimit"`
	ContactLimit Duration `yaml:"contactLimit"`
	LogRetention Duration `yaml:"logRetention"`
	// KeepMiB bounds what is kept of tasks and nodes that are gone; KeepPartKiB what
	// is kept of each end of a file.
	KeepMiB     int64 `yaml:"keepMiB"`
	KeepPartKiB int64 `yaml:"keepPartKiB"`
}

// Events bounds how far back a reader of events may go.
type Events struct {
	KeepMiB int64    `yaml:"keepMiB"`
	KeepFor Duration `yaml:"keepFor"`
}

// Local configures the local launcher.
type Local struct {
	// Accel is auto, kvm or tcg.
	Accel string `yaml:"accel"`
	// MemoryCapMiB caps the memory of each VM, whatever its size promises; 0
	// means no cap.
	MemoryCapMiB int `yaml:"memoryCapMiB"`
	// VCPUCap caps the processors of each VM; 0 means the host's.
	VCPUCap int `yaml:"vcpuCap"`
	// MaxVMs bounds the VMs on this host; 0 means by memory alone.
	MaxVMs int `yaml:"maxVMs"`
	// MemoryMiB is how much of the host's memory VMs may use in all; 0 means
	// nine tenths of it.
	MemoryMiB int64 `yaml:"memoryMiB"`
	// ImageCacheMiB bounds the parts of images that are kept on this host; 0
	// means a tenth of the disk, 20 GiB at most.
	ImageCacheMiB int64 `yaml:"imageCacheMiB"`
	// Clones is on to copy nodes from one that has booted, or off.
	Clones string `yaml:"clones"`
	// TemplatesMiB bounds what the machines take on the disk that nodes are copied
	// from; 0 means 8 GiB.
	TemplatesMiB int64 `yaml:"templatesMiB"`
	// DisksKey is the file of the key that those of encrypted disks are kept under;
	// empty for disks.key in the data folder.
	DisksKey string `yaml:"disksKey"`
}

// Fake configures the fake launcher.
type Fake struct {
	BootDelay Duration `yaml:"bootDelay"`
	// FailureRate is the share of launches that fail, 0 to 1.
	FailureRate float64 `yaml:"failureRate"`
	// Boot and BootSpread are the median of a boot beside its reading, and the
	// standard deviation of its logarithm.
	Boot       Duration `yaml:"boot"`
	BootSpread float64  `yaml:"bootSpread"`
	// ImageMiB is what a boot reads; ReplicaMiBps is what a replica serves to all its
	// readers, and NodeMiBps what one node takes at most. 0 is no limit.
	ImageMiB     float64 `yaml:"imageMiB"`
	ReplicaMiBps float64 `yaml:"replicaMiBps"`
	NodeMiBps    float64 `yaml:"nodeMiBps"`
	// BootsAtOnce is how many machines boot at the same time; 0 is no limit.
	BootsAtOnce int `yaml:"bootsAtOnce"`
	// Speed makes all times of the model, and what tasks sleep, shorter by a factor.
	Speed  float64 `yaml:"speed"`
	MaxVMs int     `yaml:"maxVMs"`
}

// Duration is a time.Duration written like 90s or 15m.
type Duration time.Duration

func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: %q is not a duration such as 90s or 15m", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

var tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// Default is the configuration without a file.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:8443", Launcher: "local", OnStop: "keep", LogFormat: "text", LogLevel: "info",
		Regions: []Region{
			{Name: "westus2", DisplayName: "West US 2"},
			{Name: "eastus", DisplayName: "East US"},
			{Name: "westeurope", DisplayName: "West Europe"},
			{Name: "northeurope", DisplayName: "North Europe"},
			{Name: "eastasia", DisplayName: "East Asia"},
			{Name: "southeastasia", DisplayName: "Southeast Asia"},
			// Programs name these too, the SDKs' and az's own tests among them.
			{Name: "eastus2", DisplayName: "East US 2"},
			{Name: "westus", DisplayName: "West US"},
			{Name: "westus3", DisplayName: "West US 3"},
			{Name: "centralus", DisplayName: "Central US"},
			{Name: "southcentralus", DisplayName: "South Central US"},
			{Name: "northcentralus", DisplayName: "North Central US"},
			{Name: "westcentralus", DisplayName: "West Central US"},
			{Name: "uksouth", DisplayName: "UK South"},
			{Name: "canadacentral", DisplayName: "Canada Central"},
			{Name: "australiaeast", DisplayName: "Australia East"},
			{Name: "japaneast", DisplayName: "Japan East"},
			{Name: "australiacentral", DisplayName: "Australia Central"},
			{Name: "australiasoutheast", DisplayName: "Australia Southeast"},
			{Name: "austriaeast", DisplayName: "Austria East"},
			{Name: "belgiumcentral", DisplayName: "Belgium Central"},
			{Name: "brazilsouth", DisplayName: "Brazil South"},
			{Name: "canadaeast", DisplayName: "Canada East"},
			{Name: "centralindia", DisplayName: "Central India"},
			{Name: "chilecentral", DisplayName: "Chile Central"},
			{Name: "eastus2euap", DisplayName: "East US 2 EUAP"},
			{Name: "centraluseuap", DisplayName: "Central US EUAP"},
			{Name: "francecentral", DisplayName: "France Central"},
			{Name: "germanywestcentral", DisplayName: "Germany West Central"},
			{Name: "indonesiacentral", DisplayName: "Indonesia Central"},
			{Name: "israelcentral", DisplayName: "Israel Central"},
			{Name: "italynorth", DisplayName: "Italy North"},
			{Name: "japanwest", DisplayName: "Japan West"},
			{Name: "koreacentral", DisplayName: "Korea Central"},
			{Name: "koreasouth", DisplayName: "Korea South"},
			{Name: "malaysiawest", DisplayName: "Malaysia West"},
			{Name: "mexicocentral", DisplayName: "Mexico Central"},
			{Name: "newzealandnorth", DisplayName: "New Zealand North"},
			{Name: "norwayeast", DisplayName: "Norway East"},
			{Name: "polandcentral", DisplayName: "Poland Central"},
			{Name: "qatarcentral", DisplayName: "Qatar Central"},
			{Name: "southafricanorth", DisplayName: "South Africa North"},
			{Name: "southindia", DisplayName: "South India"},
			{Name: "spaincentral", DisplayName: "Spain Central"},
			{Name: "swedencentral", DisplayName: "Sweden Central"},
			{Name: "switzerlandnorth", DisplayName: "Switzerland North"},
			{Name: "uaenorth", DisplayName: "UAE North"},
			{Name: "ukwest", DisplayName: "UK West"},
			{Name: "westindia", DisplayName: "West India"},
		},
		Quotas:    Quotas{Pools: 100, Cores: 10000, ActiveJobs: 300, Accounts: 50},
		Pools:     Pools{NodesPerReplica: 600, BootsPerReplica: 400, MinutesPer1000Nodes: 15, GrowOnArrival: true},
		Galleries: Galleries{Preflight: "auto", EndOfLife: "warn"},
		Nodes:     Nodes{BootLimit: Duration(5 * time.Minute), ContactLimit: Duration(time.Minute), LogRetention: Duration(7 * 24 * time.Hour), KeepMiB: 1024, KeepPartKiB: 1024},
		Events:    Events{KeepMiB: 64, KeepFor: Duration(7 * 24 * time.Hour)},
		Local:     Local{Accel: "auto", MemoryCapMiB: 2048, Clones: "on"},
		Fake:      Fake{BootDelay: Duration(200 * time.Millisecond), MaxVMs: 100000, Speed: 1},
	}
}

// Load reads a file over the defaults. A missing file is an error only when
// required.
func Load(path string, required bool) (Config, error) {
	c := Default()
	data, err := os.ReadFile(path)
	if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && !required {
		return c, nil // that the folder is none is the folder's own error
	}
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	if err = Parse(data, &c); err == nil {
		err = c.Check()
	}
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads YAML over what c already says.
func Parse(data []byte, c *Config) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(c)
	var wrong *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &wrong):
		for i, text := range wrong.Errors {
			wrong.Errors[i] = plainly(text)
		}
		return errors.New(strings.Join(wrong.Errors, "\n"))
	}
	return err
}

var (
	unknownField = regexp.MustCompile(`field (\S+) (?:not found in type \S+)`)
	wrongType    = regexp.MustCompile(`cannot unmarshal !!\w+ (.*)into (\S+)$`)
)

// plainly puts a parser's words, which speak of this program's types, into words
// about the file.
func plainly(text string) string {
	text = unknownField.ReplaceAllString(text, "there is no setting $1 here; docs/guide/serving.md lists what there is")
	m := wrongType.FindStringSubmatchIndex(text)
	if m == nil {
		return text
	}
	want := "a group of settings"
	switch kind := text[m[4]:m[5]]; {
	case strings.HasPrefix(kind, "[]"):
		want = "a list"
	case strings.HasPrefix(kind, "int"):
		want = "a whole number"
	case strings.HasPrefix(kind, "float"):
		want = "a number"
	case kind == "bool":
		want = "true or false"
	case kind == "string":
		want = "a text"
	}
	return text[:m[0]] + text[m[2]:m[3]] + "stands where " + want + " must"
}

// Check says what is wrong with a configuration and how to put it right.
func (c Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(name, v string, of ...string) {
		for _, o := range of {
			if v == o {
				return
			}
		}
		bad("%s is %q; it must be %s or %s", name, v, strings.Join(of[:len(of)-1], ", "), of[len(of)-1])
	}
	oneOf("launcher", c.Launcher, "local", "fake")
	oneOf("onStop", c.OnStop, "keep", "stop")
	oneOf("logFormat", c.LogFormat, "text", "json")
	oneOf("logLevel", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("galleries.preflight", c.Galleries.Preflight, "auto", "allow", "warn", "refuse")
	oneOf("galleries.endOfLife", c.Galleries.EndOfLife, "allow", "warn", "refuse")
	oneOf("local.accel", c.Local.Accel, "auto", "kvm", "tcg")
	oneOf("local.clones", c.Local.Clones, "on", "off")
	if len(c.Regions) == 0 {
		bad("regions is empty; name at least one")
	}
	seen := map[string]bool{}
	for _, r := range c.Regions {
		n := millpond.NormalizeRegion(r.Name)
		if n == "" || n != r.Name {
			bad("region name %q must be lower case without blanks, such as westus2", r.Name)
		}
		if seen[n] {
			bad("region %s is listed twice", n)
		}
		seen[n] = true
	}
	for _, t := range c.Tenants {
		if !tenantName.MatchString(t.Name) || !strings.Contains(t.Domain, ".") {
			bad("tenant %q needs a name of lower-case letters, digits and hyphens, and a domain such as %s.example", t.Name, t.Name)
		}
	}
	for _, s := range c.VMSizes {
		if s.Name == "" || s.VCPUs <= 0 || s.MemoryMiB <= 0 || s.TempDiskMiB < 0 || s.CacheDiskGiB < 0 || s.MaxDataDisks < 0 {
			bad("VM size %q needs a name, vcpus and memoryMiB above 0", s.Name)
		}
	}
	for name, v := range map[string]int{"quotas.pools": c.Quotas.Pools, "quotas.cores": c.Quotas.Cores, "quotas.activeJobs": c.Quotas.ActiveJobs,
		"quotas.accounts": c.Quotas.Accounts, "pools.nodesPerReplica": c.Pools.NodesPerReplica, "pools.bootsPerReplica": c.Pools.BootsPerReplica, "pools.minutesPer1000Nodes": c.Pools.MinutesPer1000Nodes} {
		if v <= 0 {
			bad("%s is %d; it must be above 0", name, v)
		}
	}
	if u, err := url.Parse(c.Traces); c.Traces != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		bad("traces is %q; it must be the address of a collector such as http://127.0.0.1:4318", c.Traces)
	}
	if n := c.Pools.Spares; n < 0 || n > millpond.MostSpares {
		bad("pools.spares is %d; it must lie between 0 and %d", n, millpond.MostSpares)
	}
	if c.Nodes.BootLimit == 0 || c.Nodes.ContactLimit == 0 {
		bad("nodes.bootLimit and nodes.contactLimit must be above 0")
	}
	if c.Nodes.KeepMiB < 1 || c.Nodes.KeepPartKiB < 1 || c.Nodes.KeepPartKiB > 16384 {
		bad("nodes.keepMiB must be at least 1, and nodes.keepPartKiB from 1 to 16384")
	}
	if c.Events.KeepMiB < 1 || c.Events.KeepFor == 0 {
		bad("events.keepMiB must be at least 1 and events.keepFor above 0")
	}
	if n := c.Local.ImageCacheMiB; n != 0 && n < 256 {
		bad("local.imageCacheMiB is %d; it must be at least 256, or 0 for a tenth of the disk", n)
	}
	if c.Local.TemplatesMiB < 0 {
		bad("local.templatesMiB is %d; it must not be below 0", c.Local.TemplatesMiB)
	}
	if c.Fake.FailureRate < 0 || c.Fake.FailureRate > 1 {
		bad("fake.failureRate is %v; it must lie between 0 and 1", c.Fake.FailureRate)
	}
	if f := c.Fake; !(f.Speed > 0) || f.Speed > 1e6 {
		bad("fake.speed is %v; it must be above 0, and at most 1000000", f.Speed)
	}
	if f := c.Fake; !(f.BootSpread >= 0 && f.BootSpread <= 3) || !(f.ImageMiB >= 0) || !(f.ReplicaMiBps >= 0) || !(f.NodeMiBps >= 0) || f.BootsAtOnce < 0 {
		bad("fake.bootSpread must lie between 0 and 3; fake.imageMiB, replicaMiBps, nodeMiBps and bootsAtOnce must not be below 0")
	}
	return errors.Join(errs...)
}

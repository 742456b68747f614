// Package baseimage builds disk images that boot by themselves under BIOS and
// UEFI: a tiny Linux for tests and trials, and a full Debian 12. Packages come
// from the host's Debian mirror and are unpacked, never installed on the host;
// no loop device and no mount is used.
//
// It never touches the catalogue or a store: its product is a raw file and a
// description beside it. cmd/millpond calls it.
package baseimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/clock"
)

// Recipe names.
const (
	Tiny     = "tiny"
	Debian12 = "debian-12"
)

// Options says what to build.
type Options struct {
	// Name is the recipe: Tiny or Debian12.
	Name string
	// Out is the raw file to write; its description goes to Out + ".json".
	Out string
	// AgentPath is a statically linked linux/amd64 millpond-agent. Ignored with
	// WithoutAgent.
	AgentPath string
	// OSRelease is the release that the tiny image says it is, such as
	// ubuntu-20.04; empty for what it really is. Refused for other recipes.
	OSRelease string
	// Packages are Debian packages that are installed beside those of the recipe,
	// with what they depend on. Refused for Tiny, which has no package manager.
	Packages []string
	// WithoutAgent leaves the agent out, so that a boot seed has to bring it.
	WithoutAgent bool
	// CacheDir keeps downloaded packages and unpacked systems between builds.
	CacheDir string
	// Progress is told about every finished step; nil for silence.
	Progress func(Step)
	// Clock dates the description; nil for the machine's.
	Clock clock.Clock
}

// Step is one finished step of a build.
type Step struct {
	Name     string
	Note     string
	Duration time.Duration
}

// Description is what is known about a built image; it is kept as JSON beside
// the image.
type Description struct {
	Name string `json:"name"`
	OS   string `json:"os"`
	// OSRelease is ID-VERSION_ID as the image's os-release file says.
	OSRelease    string   `json:"osRelease"`
	PrettyName   string   `json:"prettyName"`
	Architecture string   `json:"architecture"`
	Generations  []string `json:"hyperVGenerations"`
	Agent        bool     `json:"agent"`
	Kernel       string   `json:"kernel"`
	// Size is virtual, Stored is what is allocated; bytes.
	Size    int64     `json:"size"`
	Stored  int64     `json:"stored"`
	BuiltAt time.Time `json:"builtAt"`
	// Key is the hash of everything that went in.
	Key string `json:"key"`
}

// Result is a built image.
type Result struct {
	Description
	Path string
	// Cached says that the file was there already, built from the same inputs.
	Cached   bool
	Duration time.Duration
}

// packageName is what Debian's policy says of names.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// Names are the recipes that Build knows.
func Names() []string { return []string{Tiny, Debian12} }

// DescriptionPath is where the description of an image file is kept.
func DescriptionPath(raw string) string { return raw + ".json" }

// ReadDescription reads the description beside an image file.
func ReadDescription(raw string) (Description, error) {
	var d Description
	b, err := os.ReadFile(DescriptionPath(raw))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("read %s: %w", DescriptionPath(raw), err)
	}
	return d, nil
}

// Build makes the image, unless Out already holds one from the same inputs.
// Errors are *millpond.Error of kind Invalid (options) or Unavailable (a missing
// tool, a failed download), with the remedy in the message.
func Build(ctx context.Context, o Options) (Result, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Progress == nil {
		o.Progress = func(Step) {}
	}
	began := time.Now()
	o.Packages = slices.Clone(o.Packages)
	b := &build{Options: o}
	if err := b.check(); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(filepath.Dir(o.Out), 0o755); err != nil {
		return Result{}, err
	}
	release, err := lockCache(ctx, o.CacheDir, func() {
		o.Progress(Step{Name: "wait for another build", Note: "in " + o.CacheDir})
	})
	if err != nil {
		return Result{}, err
	}
	defer release()
	if err := b.run(ctx, "resolve packages", b.resolve); err != nil {
		return Result{}, err
	}
	if d, err := ReadDescription(o.Out); err == nil && d.Key == b.key {
		if st, err := os.Stat(o.Out); err == nil && st.Size() == d.Size {
			return Result{Description: d, Path: o.Out, Cached: true, Duration: time.Since(began)}, nil
		}
	}
	if err := b.tools(); err != nil {
		return Result{}, err
	}
	// Beside Out, so that the last step can be a rename.
	work, err := os.MkdirTemp(filepath.Dir(o.Out), ".build-*")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(work)
	b.work = work

	steps := b.tinySteps()
	if o.Name == Debian12 {
		steps = b.debianSteps()
	}
	for _, s := range append(steps, namedStep{"publish", b.publish}) {
		if err := b.run(ctx, s.name, s.do); err != nil {
			return Result{}, err
		}
	}
	return Result{Description: b.desc, Path: o.Out, Duration: time.Since(began)}, nil
}

// build is one run of Build. Every step works inside work, which is removed
// whatever happens, so steps need no undo of their own.
type build struct {
	Options
	work    string
	release Release
	debs    []deb
	agent   string // hex SHA-256 of the agent, "" without
	key     string
	seed    string // names the UUIDs inside the image; independent of the agent
	system  string // names the installed system without our files
	note    string
	kernel  kernel
	desc    Description
}

type namedStep struct {
	name string
	do   func(context.Context) error
}

func (b *build) run(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	began := time.Now()
	b.note = ""
	if err := do(ctx); err != nil {
		var me *millpond.Error
		if errors.As(err, &me) {
			return err
		}
		return millpond.Errorf(millpond.Unavailable, "ImageBuildFailed",
			"Building the image %s failed at the step '%s': %v", b.Name, name, err).Because(err)
	}
	b.Progress(Step{Name: name, Note: b.note, Duration: time.Since(began)})
	return nil
}

func (b *build) check() error {
	invalid := func(format string, args ...any) error {
		return millpond.Errorf(millpond.Invalid, "InvalidImageOptions", format, args...)
	}
	switch b.Name {
	case Tiny:
		if len(b.Packages) > 0 {
			return invalid("The image %s is not made of packages. Leave --package out, or build '%s'.", b.Name, Debian12)
		}
		r, ok := FindRelease(b.OSRelease)
		if !ok {
			return invalid("The release '%s' is not known. Use one of: %s.", b.OSRelease, strings.Join(ReleaseNames(), ", "))
		}
		b.release = r
	case Debian12:
		if b.OSRelease != "" && b.OSRelease != Debian12 {
			return invalid("The image %s is a real Debian 12 and cannot say that it is '%s'. Leave --os-release out, or build 'tiny'.", b.Name, b.OSRelease)
		}
		b.release, _ = FindRelease(Debian12)
	default:
		return invalid("There is no base image '%s'. Use one of: %s.", b.Name, strings.Join(Names(), ", "))
	}
	for _, p := range b.Packages {
		if !packageName.MatchString(p) {
			return invalid("'%s' is no name of a Debian package. Give one name to each --package, without a version.", p)
		}
	}
	slices.Sort(b.Packages)
	b.Packages = slices.Compact(b.Packages)
	if b.Out == "" || b.CacheDir == "" {
		return invalid("An output file and a cache folder are needed.")
	}
	if b.WithoutAgent {
		return nil
	}
	if b.AgentPath == "" {
		return invalid("The agent's binary is needed. Build it with 'CGO_ENABLED=0 go build ./cmd/millpond-agent' and name it, or build the image without agent.")
	}
	if err := checkStatic(b.AgentPath); err != nil {
		return invalid("%s cannot serve as agent: %v. Build it with 'CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build ./cmd/millpond-agent'.", b.AgentPath, err)
	}
	h, err := hashFile(b.AgentPath)
	if err != nil {
		return invalid("The agent's binary cannot be read: %v.", err)
	}
	b.agent = h
	return nil
}

// resolve finds the exact packages and from them the key of the image.
func (b *build) resolve(ctx context.Context) error {
	names := tinyPackages()
	if b.Name == Debian12 {
		names = debianPackages(b.Packages)
	}
	debs, err := resolveDebs(ctx, b.CacheDir, names)
	if err != nil {
		return err
	}
	b.debs = debs
	h := sha256.New()
	fmt.Fprintln(h, b.Name, b.release.Name)
	if err := hashRecipe(h, "files"); err != nil {
		return err
	}
	system := sha256.New()
	if err := hashRecipe(system, "files/debian-early"); err != nil {
		return err
	}
	for _, d := range debs {
		fmt.Fprintln(h, d.File, d.SHA256)
		fmt.Fprintln(system, d.File, d.SHA256)
	}
	b.system = hex.EncodeToString(system.Sum(nil))
	b.seed = hex.EncodeToString(h.Sum(nil))
	fmt.Fprintln(h, b.agent)
	b.key = hex.EncodeToString(h.Sum(nil))
	return nil
}

// hashRecipe mixes in every file below dir that goes into images, and the
// layout's version.
func hashRecipe(h io.Writer, dir string) error {
	fmt.Fprintln(h, recipeVersion)
	var names []string
	err := fs.WalkDir(recipeFiles, dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, n := range names {
		c, err := recipeFiles.ReadFile(n)
		if err != nil {
			return err
		}
		fmt.Fprintln(h, n, len(c))
		h.Write(c)
	}
	return nil
}

// publish moves the disk into place, durably, and writes its description.
func (b *build) publish(context.Context) error {
	disk := b.diskPath()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	size, stored := int64(0), int64(0)
	if st, serr := f.Stat(); serr == nil {
		size, stored = st.Size(), allocated(st)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	b.desc = Description{
		Name: b.Name, OS: "Linux", OSRelease: b.release.ID + versionSuffix(b.release.VersionID), PrettyName: b.release.PrettyName,
		Architecture: "x64", Generations: []string{"V1", "V2"}, Agent: !b.WithoutAgent, Kernel: b.kernel.Version,
		Size: size, Stored: stored, BuiltAt: b.Clock.Now(), Key: b.key,
	}
	j, err := json.MarshalIndent(b.desc, "", "  ")
	if err != nil {
		return err
	}
	// The old description goes first: a crash in between leaves an image without
	// description, which is built again, never one with a wrong description.
	if err := os.Remove(DescriptionPath(b.Out)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(disk, b.Out); err != nil {
		return err
	}
	if err := os.Chmod(b.Out, 0o644); err != nil {
		return err
	}
	return atomicfile.Write(DescriptionPath(b.Out), append(j, '\n'), 0o644)
}

func versionSuffix(v string) string {
	if v == "" {
		return ""
	}
	return "-" + v
}

func (b *build) diskPath() string { return filepath.Join(b.work, "disk.raw") }

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

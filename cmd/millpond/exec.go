package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/directory"
	"millpond.dev/millpond/internal/execproxy"
)

// ExecCmd runs any Azure program against the server, unchanged: endpoints, TLS
// and sign-in are arranged for the child process and for nothing else.
type ExecCmd struct {
	As            string   `help:"Act as another service principal: its client id and a file with its secret, or one JSON file as az ad sp create-for-rbac prints it." placeholder:"CLIENT-ID:FILE|FILE"`
	Tenant        string   `help:"The principal's tenant, if it is not the administrator's." placeholder:"ID"`
	Subscription  string   `help:"The subscription to begin with, if it is not the administrator's." placeholder:"ID"`
	AllowInternet bool     `help:"Let connections to hosts that Millpond does not serve through to the internet."`
	Command       []string `arg:"" passthrough:"" help:"The program and its arguments, after --."`
}

func (e *ExecCmd) Run(g *Globals) error {
	argv := e.Command
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return errors.New("nothing to run; for example: millpond exec -- az account show")
	}
	data, err := absolute(g.Data)
	if err != nil {
		return err
	}
	who, err := e.identity(data)
	if err != nil {
		return err
	}
	if err := reachable(data); err != nil {
		return err
	}
	code, err := e.run(data, who, argv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "millpond exec:", err)
	}
	// The child's code is this command's, without an error text of our own.
	os.Exit(code)
	return nil
}

func (e *ExecCmd) run(data datadir.Dir, who execproxy.Identity, argv []string) (int, error) {
	clients := filepath.Join(string(data), "clients")
	s := execproxy.Surroundings{Identity: who, CAFile: data.CA(), BundleFile: filepath.Join(clients, "ca-bundle.pem"), TrustStore: filepath.Join(clients, "ca-bundle.jks"), AzDir: filepath.Join(clients, "az-"+who.Client)}
	if err := os.MkdirAll(clients, 0o700); err != nil {
		return 1, err
	}
	usersBundle := os.Getenv("REQUESTS_CA_BUNDLE")
	if usersBundle == "" {
		usersBundle = os.Getenv("SSL_CERT_FILE")
	}
	if err := execproxy.WriteBundle(s.BundleFile, s.CAFile, usersBundle); err != nil {
		return 1, err
	}
	if err := execproxy.WriteTrustStore(s.TrustStore, s.BundleFile); err != nil {
		return 1, err
	}
	if err := execproxy.SignInAz(s.AzDir, who, uuid.NewString()); err != nil {
		return 1, fmt.Errorf("sign az in: %w", err)
	}
	if home, err := os.UserHomeDir(); err == nil && os.Getenv("AZURE_EXTENSION_DIR") == "" {
		if dir := filepath.Join(home, ".azure", "cliextensions"); isDir(dir) {
			s.ExtensionDir = dir
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	s.ProxyURL = "http://" + l.Addr().String()
	proxy := &execproxy.Proxy{Server: func() (string, error) { return endpoint(data) }, AllowInternet: e.AllowInternet, Notice: os.Stderr}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- proxy.Serve(ctx, l) }()
	code, err := execproxy.RunChild(argv, execproxy.Environment(os.Environ(), s))
	stop()
	return code, errors.Join(err, <-served)
}

// absolute is for paths that a client gets, which may run in another folder.
func absolute(data datadir.Dir) (datadir.Dir, error) {
	path, err := filepath.Abs(string(data))
	return datadir.Dir(path), err
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// endpoint is host:port of the running server.
func endpoint(data datadir.Dir) (string, error) {
	text, err := os.ReadFile(data.Endpoint())
	if errors.Is(err, fs.ErrNotExist) {
		return "", noServer(data)
	}
	return strings.TrimSpace(string(text)), err
}

func noServer(data datadir.Dir) error {
	return fmt.Errorf("no server runs on data folder %s; start one with: millpond serve --data %s", data, data)
}

// silent is noServer of a server that was not stopped in order: its address is there.
func silent(data datadir.Dir, address string, err error) error {
	return fmt.Errorf("%w (%s, where it was last, does not answer: %w)", noServer(data), address, err)
}

// reachable says early and clearly that there is no server, where the child
// would print a page about a proxy.
func reachable(data datadir.Dir) error {
	address, err := endpoint(data)
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return silent(data, address, err)
	}
	return c.Close()
}

// identity is the administrator, or whom --as names.
func (e *ExecCmd) identity(data datadir.Dir) (execproxy.Identity, error) {
	admin, err := directory.ReadCredentials(data.Credentials())
	if errors.Is(err, fs.ErrNotExist) {
		return execproxy.Identity{}, noServer(data)
	}
	if err != nil {
		return execproxy.Identity{}, err
	}
	who := execproxy.Identity{Tenant: admin.TenantID, Client: admin.ClientID, Secret: admin.ClientSecret,
		Subscription: admin.SubscriptionID, SubscriptionName: admin.SubscriptionName}
	if e.As != "" {
		if err := asOther(&who, e.As); err != nil {
			return who, err
		}
	}
	if e.Tenant != "" {
		who.Tenant = e.Tenant
	}
	if e.Subscription != "" {
		who.Subscription, who.SubscriptionName = e.Subscription, ""
	}
	return who, nil
}

// asOther reads CLIENT-ID:FILE, where FILE holds the secret, or FILE alone,
// where it is JSON in the words of az or of credentials.json.
func asOther(who *execproxy.Identity, as string) error {
	client, file, ok := strings.Cut(as, ":")
	if !ok {
		client, file = "", as
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--as: %w", err)
	}
	var doc struct {
		AppID, ClientID, Password, ClientSecret, Tenant, TenantID, SubscriptionID, SubscriptionName string
	}
	if json.Unmarshal(data, &doc) == nil {
		first := func(values ...string) string {
			for _, v := range values {
				if v != "" {
					return v
				}
			}
			return ""
		}
		client, who.Secret = first(client, doc.AppID, doc.ClientID), first(doc.Password, doc.ClientSecret)
		who.Tenant = first(doc.Tenant, doc.TenantID, who.Tenant)
		if doc.SubscriptionID != "" {
			who.Subscription, who.SubscriptionName = doc.SubscriptionID, doc.SubscriptionName
		}
	} else {
		who.Secret = strings.TrimSpace(string(data))
	}
	who.Client = client
	if _, err := uuid.Parse(client); err != nil || who.Secret == "" {
		return fmt.Errorf("--as: expected CLIENT-ID:FILE with the secret in FILE, or a JSON FILE with appId, password and tenant")
	}
	return nil
}

// Package wire_test makes the tables of docs/wire from the routes themselves and
// fails when the files say something else.
package wire_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"millpond.dev/millpond/internal/armapi"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/batchapi"
	"millpond.dev/millpond/internal/blobapi"
	"millpond.dev/millpond/internal/identity"
	"millpond.dev/millpond/internal/storageapi"
)

var update = flag.Bool("update", false, "write the files anew")

const made = "Made from the source by `go test ./docs/wire -update`; do not edit. [README.md](README.md) says how to read it.\n"

func TestFilesSayWhatTheRoutesSay(t *testing.T) {
	batch := batchapi.New(batchapi.Options{})
	files := map[string]string{
		"resource-manager.md": "# The Resource Manager\n\n" + made +
			"\nHosts: `management.azure.com`, `management.core.windows.net`, or this server's own address. Token audience: `https://management.azure.com/`.\n" +
			section("Resources", armapi.New(armapi.Options{}).Routes()) +
			section("Microsoft.Authorization, at any scope", armapi.NewAuthorization(nil, nil).Routes()) +
			"\nThe document of the cloud, `GET /metadata/endpoints`, is open to anonymous callers.\n" +
			"\n## Properties that are refused when used\n\nThe answer is 400 `NotSupported` with the property as `target`.\n\n| Resource | Property | Why |\n|---|---|---|\n" + bodies(t),
		"batch.md": "# The Batch service\n\n" + made +
			"\nHosts: `{account}.{region}.batch.azure.com`, or this server's own address with `/batch/{account}.{region}`. Token audience: `https://batch.core.windows.net/`; or the account's shared key.\n" +
			section("Operations", batch.Routes()) +
			"\n## Properties that are refused when used\n\nThe answer is 400 `UnsupportedProperty` with PropertyName, PropertyPath and Reason. Absent, null and empty always count as not used.\n\n" +
			"| Property | In | Counts as not used | Why |\n|---|---|---|---|\n" + members(batch.Refusals()),
		"identity.md": "# Sign-in and directory\n\n" + made +
			section("Token service", identity.New(nil, nil, nil).Routes()) +
			"\nHosts: `login.microsoftonline.com`, `login.windows.net`, `login.microsoft.com`, `sts.windows.net`, or this server's own address.\n" +
			section("Microsoft Graph", identity.NewGraph(nil, nil, nil, nil).Routes()) +
			"\nHosts: `graph.microsoft.com`, or this server's own address. Every principal of the tenant may read; rights to write are asked for at the scope `/`.\n",
		"blob.md": "# Disks as page blobs\n\n" + made +
			section("Operations", blobapi.New(nil, nil).Routes()) +
			"\nHosts: `md-….blob.storage.azure.net`, or this server's own address with `/blob`. `GET` serves Get Blob and, with `comp=pagelist`, Get Page Ranges; `PUT` serves Put Blob, " +
			"with `comp=page` Put Page, and accepts `comp=properties` and `comp=metadata` without effect. Other values of `comp` are refused.\n",
		"storage.md": "# Storage accounts\n\n" + made +
			section("Operations", storageapi.New(storageapi.Options{}).Routes()) +
			"\nHosts: `{account}.blob.core.windows.net`, or this server's own address with `/{account}`. Token audience: `https://storage.azure.com/`. " +
			"Every blob operation of the service behind is passed on, but for these, which are refused with 400: batches (`comp=batch`), the properties, statistics and logs of the whole service, " +
			"finding blobs by tags over the whole service, containers whose names begin with `$`, names of containers that are longer than 62 characters with the account's name, user delegation keys and links signed with them, " +
			"parts of a blob's name that are `.` or `..`, and a token (`x-ms-copy-source-authorization`) for a source that is no storage account of this server. " +
			"Where a request takes its content from another blob or disk of this server (Put Blob, Put Block, Put Page and Append Block From URL), and where a blob is copied from a disk's signed URL (Copy Blob), this server reads it and sends it on. Names of metadata are kept in small letters, where Azure keeps capitals.\n",
	}
	for name, want := range files {
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if string(got) != want {
			t.Errorf("docs/wire/%s differs from the source at %q. Run: go test ./docs/wire -update", name, difference(string(got), want))
		}
	}
}

// difference is the first line that is wanted and not there.
func difference(got, want string) string {
	have := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(have) || have[i] != line {
			return line
		}
	}
	return "the end"
}

func section(title string, routes []azwire.Route) string {
	var b strings.Builder
	refused := 0
	for _, r := range routes {
		if r.Refused != "" {
			refused++
		}
	}
	fmt.Fprintf(&b, "\n## %s\n\n%d operations, of which %d are refused.\n\n| Operation | Method | Path | Right needed | Answer |\n|---|---|---|---|---|\n", title, len(routes), refused)
	for _, r := range routes {
		right, answer := "`"+r.Action+"`", "supported"
		switch {
		case r.Action == "":
			right = "none: open to anonymous callers"
		case strings.HasPrefix(r.Action, "("):
			right = strings.Trim(r.Action, "()")
		}
		if r.Refused != "" {
			answer = "**refused.** " + r.Refused
		}
		if r.Until != "" {
			answer = "supported before " + r.Until + "; from then on **refused.** " + r.EndedWhy
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s | %s |\n", r.Name, r.Method, r.Path, right, cell(answer))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// members has one row for a property, whatever the number of bodies that have it.
func members(all []batchapi.Refusal) string {
	var rows []string
	in := map[string][]string{}
	for _, r := range all {
		unused := make([]string, len(r.Unused))
		for i, u := range r.Unused {
			unused[i] = fmt.Sprintf("`%v`", u)
		}
		why := cell(r.Why)
		if r.From != "" {
			why = "From api-version " + r.From + " on. " + why
		}
		row := fmt.Sprintf("| `%s` | %%s | %s | %s |\n", r.Property, strings.Join(unused, ", "), strings.ReplaceAll(why, "%", "%%"))
		if in[row] == nil {
			rows = append(rows, row)
		}
		in[row] = append(in[row], r.Body)
	}
	var b strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&b, row, strings.Join(in[row], ", "))
	}
	return b.String()
}

// nouns tells for each file that refuses properties of bodies whose they are.
func nouns() map[string]string {
	return map[string]string{
		"account.go": "Batch account", "pool.go": "pool", "certificate.go": "pool", "storageaccount.go": "storage account", "disk.go": "disk, snapshot", "gallery.go": "gallery", "gallerysharing.go": "Resource Graph query", "image.go": "managed image", "imageversion.go": "image version",
		"subscription.go": "subscription alias", "virtualmachine.go": "virtual machine", "virtualmachinebody.go": "virtual machine",
		"placement.go":               "availability set, placement group, disk access",
		"virtualmachineextension.go": "extension of a machine", "virtualmachinecommand.go": "run command",
		"deployment.go": "deployment", "network.go": "network resources", "virtualnetwork.go": "virtual network, subnet", "publicaddress.go": "public address", "networkinterface.go": "network interface", "securitygroup.go": "security group, rule",
	}
}

var verb = regexp.MustCompile(`%[a-z]`)

// bodies reads the calls of unsupported in armapi: the properties are refused
// where they are decoded, so the source is the only list.
func bodies(t *testing.T) string {
	t.Helper()
	const dir = "../../internal/armapi"
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s has no source: %v", dir, err)
	}
	files := map[string]*ast.File{}
	texts := map[string]string{} // constants
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = f
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.ValueSpec); ok && len(c.Names) == 1 && len(c.Values) == 1 {
				if text, ok := literal(c.Values[0]); ok {
					texts[c.Names[0].Name] = text
				}
			}
			return true
		})
	}
	type row struct{ noun, property, why string }
	var rows []row
	for name, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if fun, ok := call.Fun.(*ast.Ident); !ok || fun.Name != "unsupported" {
				return true
			}
			noun, known := nouns()[name]
			property, ok1 := literal(call.Args[0])
			why, ok2 := literal(call.Args[1])
			if id, isID := call.Args[1].(*ast.Ident); isID {
				why, ok2 = texts[id.Name], texts[id.Name] != ""
			}
			if !known || !ok1 || !ok2 {
				t.Errorf("%s/%s refuses a property in a way that this test cannot read; say whose it is in nouns, and give the texts as literals", dir, name)
				return true
			}
			rows = append(rows, row{noun, property, verb.ReplaceAllString(why, "…")})
			return true
		})
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.noun, b.noun), cmp.Compare(a.property, b.property), cmp.Compare(a.why, b.why))
	})
	var b strings.Builder
	for _, r := range slices.Compact(rows) {
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", r.noun, r.property, cell(r.why))
	}
	return b.String()
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// sentence begins with a capital letter and ends as a sentence or as a command.
var sentence = regexp.MustCompile(`^[A-Z].{15,}(\.|: (az|millpond) .+)$`)

func TestRefusalsAreSentences(t *testing.T) {
	batch := batchapi.New(batchapi.Options{})
	all := slices.Concat(armapi.New(armapi.Options{}).Routes(), armapi.NewAuthorization(nil, nil).Routes(), batch.Routes(),
		identity.New(nil, nil, nil).Routes(), identity.NewGraph(nil, nil, nil, nil).Routes(), blobapi.New(nil, nil).Routes(), storageapi.New(storageapi.Options{}).Routes())
	for _, r := range all {
		if (r.Handle == nil) == (r.Refused == "") {
			t.Errorf("%s must be either handled or refused", r.Name)
		}
		if r.Refused != "" && !sentence.MatchString(r.Refused) {
			t.Errorf("%s: %q is no sentence", r.Name, r.Refused)
		}
	}
	for _, r := range batch.Refusals() {
		if !sentence.MatchString(r.Why) {
			t.Errorf("%s of %s: %q is no sentence", r.Property, r.Body, r.Why)
		}
	}
}

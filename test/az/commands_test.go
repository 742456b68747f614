//go:build e2e

package az

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// driver is az in one process for many command lines, because most of a
// command's time is az's start. It first prints the commands of az's Batch
// module, from az's own table, and then answers each line of arguments.
const driver = `
import contextlib, io, json, logging, sys
from azure.cli.core import get_default_cli
cli = get_default_cli()
table = cli.commands_loader_cls(cli).load_command_table(["batch"])
print(json.dumps([n for n in table if n.startswith("batch ")]), flush=True)
for line in sys.stdin:
    for name in (None, "cli", "az"):
        logging.getLogger(name).handlers.clear()
    out, err, code = io.StringIO(), io.StringIO(), 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = get_default_cli().invoke(json.loads(line), out_file=out)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except BaseException as e:
            err.write(repr(e))
    print(json.dumps({"code": code or 0, "stdout": out.getvalue(), "stderr": err.getvalue()}), flush=True)
`

// session is one az.
type session struct {
	t   *testing.T
	in  io.WriteCloser
	out *json.Decoder
}

// openAz starts az by its Python under exec, and gives its commands.
func openAz(t *testing.T, s *lab.Server, python string) (*session, []string) {
	t.Helper()
	cmd := exec.Command(s.Bin, "exec", "--data", s.Data, "--", python, "-c", driver)
	cmd.Dir = t.TempDir()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	a := &session{t, in, json.NewDecoder(out)}
	var names []string
	if err := a.out.Decode(&names); err != nil {
		_ = cmd.Wait()
		t.Fatalf("%s has no az: %v\n%s", python, err, said.String())
	}
	return a, names
}

// run runs one command.
func (a *session) run(args []string) (r lab.Result) {
	a.t.Helper()
	line, err := json.Marshal(args)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.in.Write(append(line, '\n')); err != nil {
		a.t.Fatal(err)
	}
	if err := a.out.Decode(&r); err != nil {
		a.t.Fatalf("az %q: %v", args, err)
	}
	return r
}

// row is one command line; a blank inside a word is written as a bar.
type row struct {
	line string
	// want is in what the command prints.
	want string
	// no is in what it says when it fails, which it must.
	no string
	// az is old or current where only one of them runs the line.
	az string
	// until repeats the line for so long until it prints want.
	until time.Duration
}

// commands covers every command of both generations.
func commands() []row {
	const minute = time.Minute
	return []row{
		{line: "batch account list -g {g} --query [].name", want: "{a}"},
		{line: "batch account show -g {g} -n {a} --query accountEndpoint", want: "batch.azure.com"},
		{line: "batch account create -g {g} -n {a}2 -l westus2 --query provisioningState", want: "Succeeded"},
		{line: "batch account set -g {g} -n {a}2 --tags a=b --query tags", want: `"a": "b"`},
		{line: "batch account keys list -g {g} -n {a} --query accountName", want: "{a}"},
		{line: "batch account keys renew -g {g} -n {a} --key-name secondary --query accountName", want: "{a}"},
		{line: "batch account identity show -g {g} -n {a}2", want: ""},
		{line: "batch account identity assign -g {g} -n {a}2 --system-assigned", no: "System-assigned identities"},
		{line: "batch account identity remove -g {g} -n {a}2 --system-assigned --yes", want: "None"},
		{line: "batch account network-profile show -g {g} -n {a}2", want: ""},
		{line: "batch account network-profile set -g {g} -n {a}2 --profile BatchAccount --default-action Deny", want: "Deny"},
		{line: "batch account network-profile network-rule list -g {g} -n {a}2", want: ""},
		{line: "batch account network-profile network-rule add -g {g} -n {a}2 --profile BatchAccount --ip-address 1.2.3.4", want: "1.2.3.4"},
		{line: "batch account network-profile network-rule delete -g {g} -n {a}2 --profile BatchAccount --ip-address 1.2.3.4 --yes", want: ""},
		{line: "batch account outbound-endpoints -g {g} -n {a}2", want: "[]"},
		{line: "batch account autostorage-keys sync -g {g} -n {a}2", no: "AccountHasNoAutoStorage"},
		{line: "batch account autostorage-keys sync -g {g} -n {a}", want: ""},
		{line: "batch account delete -g {g} -n {a}2 --yes", want: ""},
		{line: "batch account login -g {g} -n {a}", want: ""},
		{line: "batch location quotas show -l westus2", want: "accountQuota"},
		{line: "batch location list-skus -l westus2 --query [].name", want: "Standard_"},
		{line: "batch private-link-resource list --account-name {a} -g {g}", want: "[]"},
		{line: "batch private-link-resource show --account-name {a} -g {g} -n batchAccount", no: "batchAccount"},
		{line: "batch private-endpoint-connection list --account-name {a} -g {g}", want: "[]"},
		{line: "batch private-endpoint-connection show --account-name {a} -g {g} -n none", no: "none"},

		{line: "batch pool supported-images list --query [].nodeAgentSKUId||[].nodeAgentSkuId", want: "batch.node.debian"},
		{line: "batch pool create --id p --vm-size Standard_A1_v2 --target-dedicated-nodes 1 --image canonical:0001-com-ubuntu-server-jammy:22_04-lts --node-agent-sku-id batch.node.ubuntu|22.04", want: ""},
		{line: "batch pool list --query [].id", want: `"p"`},
		{line: "batch pool show --pool-id p --query allocationState", want: "steady", until: minute},
		{line: "batch pool set --pool-id p --metadata x=y", want: ""},
		{line: "batch pool reset --pool-id p --start-task-command-line true", want: ""},
		{line: "batch pool node-counts list", want: `"idle": 1`, until: minute},
		{line: "batch pool usage-metrics list", want: "["},
		{line: "batch pool all-statistics show", az: "old", want: "startTime"},
		{line: "batch pool resize --pool-id p --target-dedicated-nodes 2", want: ""},
		{line: "batch pool show --pool-id p --query currentDedicatedNodes", want: "2", until: minute},
		{line: "batch pool autoscale enable --pool-id p --auto-scale-formula $TargetDedicatedNodes=2", want: ""},
		{line: "batch pool autoscale evaluate --pool-id p --auto-scale-formula $TargetDedicatedNodes=2 --query results", want: "$TargetDedicatedNodes=2"},
		{line: "batch pool autoscale disable --pool-id p", want: ""},

		{line: "batch node list --pool-id p --query [0].id -o tsv", want: "tvm", until: minute},
		{line: "batch node show --pool-id p --node-id {node} --query state", want: "idle", until: minute},
		{line: "batch node user create --pool-id p --node-id {node} --name u --password A-Pass-9-word", want: ""},
		{line: "batch node user reset --pool-id p --node-id {node} --user-name u --password Another-9-word", want: ""},
		{line: "batch node user delete --pool-id p --node-id {node} --user-name u --yes", want: ""},
		{line: "batch node user delete --pool-id p --node-id {node} --user-name u --yes", no: "node user does not exist"},
		{line: "batch node remote-login-settings show --pool-id p --node-id {node}", want: "127."},
		{line: "batch node remote-desktop download --pool-id p --node-id {node} --destination {dir}/rdp", az: "old", no: "Remote Desktop is for Windows"},
		{line: "batch node service-logs upload --pool-id p --node-id {node} --container-url {container} --start-time 2024-01-01T00:00:00Z --query virtualDirectoryName", want: "p/"},
		{line: "batch node service-logs upload --pool-id p --node-id {node} --container-url https://x.blob.core.windows.net/c --start-time 2024-01-01T00:00:00Z", want: "Nothing could be uploaded"},
		{line: "batch node scheduling disable --pool-id p --node-id {node}", want: ""},
		{line: "batch node scheduling enable --pool-id p --node-id {node}", want: ""},
		{line: "batch node file list --pool-id p --node-id {node} --recursive true --query [].name", want: "workitems"},

		{line: "batch job create --id j --pool-id p", want: ""},
		{line: "batch job show --job-id j --query poolInfo.poolId", want: `"p"`},
		{line: "batch job list --query [].id", want: `"j"`},
		{line: "batch job set --job-id j --priority 7", want: ""},
		{line: "batch job reset --job-id j --pool-id p --priority 8", want: ""},
		{line: "batch task create --job-id j --task-id t --command-line /bin/sh|-c|'echo|hello' --query id", want: `"t"`},
		{line: "batch task create --job-id j --task-id stays --command-line sleep|1000 --query id", want: `"stays"`},
		{line: "batch task show --job-id j --task-id t --query state", want: "completed", until: minute},
		{line: "batch task list --job-id j --query [].id", want: `"stays"`},
		{line: "batch task reset --job-id j --task-id stays --max-task-retry-count 2", want: ""},
		{line: "batch task subtask list --job-id j --task-id t", want: ""},
		{line: "batch task file list --job-id j --task-id t --recursive true --query [].name", want: "stdout.txt"},
		// The current az fails on an object of its own when it shows a file.
		{line: "batch task file show --job-id j --task-id t --file-path stdout.txt", az: "old", want: ""},
		{line: "batch task file show --job-id j --task-id t --file-path stdout.txt", az: "current", no: "has no attribute 'items'"},
		{line: "batch task file download --job-id j --task-id t --file-path stdout.txt --destination {dir}/stdout", want: ""},
		{line: "batch node file show --pool-id p --node-id {ran} --file-path workitems/j/job-1/t/stdout.txt", az: "old", want: ""},
		{line: "batch node file show --pool-id p --node-id {ran} --file-path workitems/j/job-1/t/stdout.txt", az: "current", no: "has no attribute 'items'"},
		{line: "batch node file download --pool-id p --node-id {ran} --file-path workitems/j/job-1/t/stdout.txt --destination {dir}/other", want: ""},
		{line: "batch node file delete --pool-id p --node-id {ran} --file-path workitems/j/job-1/t/stderr.txt --yes", want: ""},
		{line: "batch task file delete --job-id j --task-id t --file-path stdout.txt --yes", want: ""},
		{line: "batch task reactivate --job-id j --task-id t", no: "task has succeeded"},
		{line: "batch task stop --job-id j --task-id stays", want: ""},
		{line: "batch task reactivate --job-id j --task-id stays", want: ""},
		{line: "batch job task-counts show --job-id j", want: `"completed": 1`},
		{line: "batch job prep-release-status list --job-id j", no: "no preparation task"},
		{line: "batch job all-statistics show", az: "old", want: "startTime"},
		{line: "batch job disable --job-id j --disable-tasks requeue", az: "current", want: ""},
		// The old az has no values to choose from.
		{line: "batch job disable --job-id j --disable-tasks requeue", az: "old", no: "not a valid value"},
		{line: "batch job enable --job-id j", want: ""},
		{line: "batch task delete --job-id j --task-id stays --yes", want: ""},
		{line: "batch job stop --job-id j", want: ""},
		{line: "batch job delete --job-id j --yes", want: ""},

		{line: "batch job-schedule create --id s --pool-id p --recurrence-interval PT1H", want: ""},
		{line: "batch job-schedule show --job-schedule-id s --query state", want: "active"},
		{line: "batch job-schedule list --query [].id", want: `"s"`},
		{line: "batch job-schedule set --job-schedule-id s --metadata a=b", want: ""},
		{line: "batch job-schedule reset --job-schedule-id s --pool-id p --recurrence-interval PT2H", want: ""},
		{line: "batch job-schedule disable --job-schedule-id s", want: ""},
		{line: "batch job-schedule enable --job-schedule-id s", want: ""},
		{line: "batch job-schedule stop --job-schedule-id s", want: ""},
		{line: "batch job-schedule delete --job-schedule-id s --yes", want: ""},

		{line: "batch application create -g {g} -n {a} --application-name app --query name", want: `"app"`},
		{line: "batch application list -g {g} -n {a} --query [].name", want: `"app"`},
		{line: "batch application show -g {g} -n {a} --application-name app --query allowUpdates", want: "true"},
		{line: "batch application set -g {g} -n {a} --application-name app --display-name App", want: ""},
		{line: "batch application show -g {g} -n {a} --application-name app --query displayName", want: `"App"`},
		{line: "batch application package create -g {g} -n {a} --application-name app --version-name 1 --package-file {zip}", want: ""},
		{line: "batch application package activate -g {g} -n {a} --application-name app --version-name 1 --format zip", want: ""},
		{line: "batch application set -g {g} -n {a} --application-name app --default-version 1", want: ""},
		{line: "batch application package list -g {g} -n {a} --application-name app --query [].name", want: `"1"`},
		{line: "batch application package show -g {g} -n {a} --application-name app --version-name 1 --query state", want: "Active"},
		{line: "batch application summary list --query [].versions[]", want: `"1"`},
		{line: "batch application summary show --application-id app --query versions", want: `"1"`},
		{line: "batch application package delete -g {g} -n {a} --application-name app --version-name 1 --yes", want: ""},
		{line: "batch application summary show --application-id app", no: "does not exist"},
		{line: "batch application delete -g {g} -n {a} --application-name app --yes", want: ""},
		{line: "batch application list -g {g} -n {a}", want: "[]"},

		{line: "batch certificate list", az: "old", want: "[]"},
		{line: "batch certificate create --certificate-file {cer} --thumbprint 8ca6895c58fd5c9aeed13121f784629be0261977", az: "old", no: "thumbprint"},
		{line: "batch certificate create --certificate-file {cer} --thumbprint {print}", az: "old", want: `"state": "active"`},
		{line: "batch certificate show --thumbprint {print}", az: "old", want: `"publicData": "MII`},
		{line: "batch certificate create --certificate-file {pfx} --thumbprint {print2} --password geheim", az: "old", want: `"thumbprint": "{print2}"`},
		{line: "batch certificate list --query [].thumbprint", az: "old", want: `"{print2}"`},
		{line: "batch pool create --id certified --vm-size standard_d2s_v3 --image canonical:0001-com-ubuntu-server-jammy:22_04-lts --node-agent-sku-id batch.node.ubuntu|22.04 --certificate-references {print}", az: "old", want: ""},
		{line: "batch pool show --pool-id certified --query certificateReferences[].thumbprint", az: "old", want: `"{print}"`},
		{line: "batch certificate delete --thumbprint {print} --yes", az: "old", want: ""},
		{line: "batch certificate show --thumbprint {print} --query deleteCertificateError.code", az: "old", want: "PoolsReferencingCertificate", until: minute},
		{line: "batch certificate delete --thumbprint {print} --abort --yes", az: "old", want: ""},
		{line: "batch certificate delete --thumbprint {print2} --yes", az: "old", want: ""},
		{line: "batch pool delete --pool-id certified --yes", az: "old", want: ""},

		{line: "batch node reimage --pool-id p --node-id {node}", az: "old", want: ""},
		{line: "batch node reboot --pool-id p --node-id {ran}", want: "", until: minute},
		{line: "batch node delete --pool-id p --node-list {node}", want: ""},
		{line: "batch pool delete --pool-id p --yes", want: ""},
	}
}

// TestEveryBatchCommand runs every command of the Batch modules of both
// generations of az. Which there are, the modules' own tables say.
func TestEveryBatchCommand(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake", "--blob-service", lab.Azurite(t))
	group := "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/every"
	s.Put(group, map[string]any{"location": "westus2"})
	store := group + "/providers/Microsoft.Storage/storageAccounts/everystore"
	s.Put(store, map[string]any{"location": "westus2", "kind": "StorageV2", "sku": map[string]any{"name": "Standard_LRS"}})
	connection := strings.TrimSpace(s.Az("storage", "account", "show-connection-string", "--name", "everystore", "--resource-group", "every", "--output", "tsv"))
	s.Az("storage", "container", "create", "--name", "logs", "--connection-string", connection)
	container := "https://everystore.blob.core.windows.net/logs?" + strings.TrimSpace(s.Az("storage", "container", "generate-sas", "--name", "logs", "--permissions", "rwl",
		"--expiry", "2099-01-01T00:00Z", "--connection-string", connection, "--output", "tsv"))
	for _, g := range []struct{ name, python string }{
		{"current", filepath.Join(filepath.Dir(s.AzPath()), "python")},
		{"old", "/usr/bin/python3"},
	} {
		az, names := openAz(t, s, g.python)
		if len(names) < 90 {
			t.Fatalf("the %s az has %d commands only: %q", g.name, len(names), names)
		}
		account := "every" + g.name
		s.Put(group+"/providers/Microsoft.Batch/batchAccounts/"+account, map[string]any{"location": "westus2", "properties": map[string]any{"autoStorage": map[string]any{"storageAccountId": store}}})
		done := runCommands(t, s, g.name, az, account, container)
		for _, n := range names {
			if !done[n] {
				t.Errorf("the %s az has the command %q, which this table leaves out", g.name, n)
			}
		}
	}
}

// runCommands runs the table and returns the names of the commands.
func runCommands(t *testing.T, s *lab.Server, generation string, az *session, account, container string) map[string]bool {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fill := map[string]string{"{g}": "every", "{a}": account, "{container}": container, "{dir}": dir, "{zip}": write("app.zip", "PK\x05\x06"+strings.Repeat("\x00", 18))}
	cer, print := lab.Certificate(t, "")
	pfx, print2 := lab.Certificate(t, "geheim")
	fill["{cer}"], fill["{print}"], fill["{pfx}"], fill["{print2}"] = write("x.cer", string(cer)), print, write("y.pfx", string(pfx)), print2
	done := map[string]bool{}
	for _, c := range commands() {
		if c.az != "" && c.az != generation {
			continue
		}
		line := c.line
		for k, v := range fill {
			line, c.want = strings.ReplaceAll(line, k, v), strings.ReplaceAll(c.want, k, v)
		}
		words := strings.Fields(line)
		name := words
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }); i >= 0 {
			name = words[:i]
		}
		done[strings.Join(name, " ")] = true
		for i := range words {
			words[i] = strings.ReplaceAll(strings.ReplaceAll(words[i], "||", "\x00"), "|", " ")
			words[i] = strings.ReplaceAll(words[i], "\x00", "||")
		}
		var r lab.Result
		run := func() (bool, string) {
			r = az.run(words)
			return r.Code == 0 && strings.Contains(r.Stdout, c.want), r.Stdout + r.Stderr
		}
		switch {
		case c.until > 0:
			lab.Wait(t, c.until, c.line, run)
		case c.no != "":
			if _, said := run(); r.Code == 0 || !strings.Contains(said, c.no) {
				t.Errorf("%s az %s: exit code %d, wanted a refusal with %q:\n%s", generation, line, r.Code, c.no, said)
			}
		default:
			if ok, said := run(); !ok {
				t.Errorf("%s az %s: exit code %d, wanted %q:\n%s", generation, line, r.Code, c.want, said)
			}
		}
		switch {
		case strings.HasPrefix(c.line, "batch node list"):
			fill["{node}"] = strings.TrimSpace(r.Stdout)
		case strings.HasPrefix(c.line, "batch task show"):
			var v struct {
				NodeInfo struct{ NodeID string } `json:"nodeInfo"`
			}
			l := &lab.Lab{Server: s, Account: account, Region: "westus2"}
			if err := l.Batch(http.MethodGet, "/jobs/j/tasks/t", nil).JSON(&v); err != nil {
				t.Fatal(err)
			}
			fill["{ran}"] = v.NodeInfo.NodeID
		}
	}
	return done
}

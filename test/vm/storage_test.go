//go:build e2e

package vm

import (
	"archive/zip"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// caller is the program in the application package: it asks the Batch service
// for its own job and for the pools, as a job manager would, by the names and
// the token in its environment.
const caller = `package main

import ("fmt"; "io"; "net/http"; "os"; "strings")

func main() {
	for _, path := range []string{"jobs/" + os.Getenv("AZ_BATCH_JOB_ID"), "pools"} {
		q, _ := http.NewRequest("GET", os.Getenv("AZ_BATCH_ACCOUNT_URL")+path+"?api-version=2022-10-01.16.0", nil)
		q.Header.Set("Authorization", "Bearer "+os.Getenv("AZ_BATCH_AUTHENTICATION_TOKEN"))
		a, err := http.DefaultClient.Do(q)
		if err != nil { fmt.Println(err); os.Exit(1) }
		body, _ := io.ReadAll(a.Body)
		fmt.Println(path, a.StatusCode, strings.Contains(string(body), "\"state\":\"active\""))
	}
}
`

// TestPackageAndOutputFiles: az uploads an application package, a real node
// installs it, a task runs it with a token for its job, and its output is
// uploaded to a container, from which az downloads it.
func TestPackageAndOutputFiles(t *testing.T) {
	s := lab.Start(t, "--blob-service", lab.Azurite(t))
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "caller"), write("main.go", caller))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "caller"))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(filepath.Join(dir, "tool.zip"))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(archive)
	h := &zip.FileHeader{Name: "bin/caller", Method: zip.Deflate}
	h.SetMode(0o755)
	f, err := z.CreateHeader(h)
	if err == nil {
		_, err = f.Write(program)
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = archive.Close()
	}
	if err != nil {
		t.Fatal(err)
	}

	s.Az("storage", "account", "create", "--name", "labstore", "--resource-group", "lab", "--location", l.Region)
	s.Az("batch", "account", "set", "--name", l.Account, "--resource-group", "lab", "--storage-account", "labstore")
	s.Az("batch", "application", "package", "create", "--name", l.Account, "--resource-group", "lab", "--application-name", "tool", "--version-name", "1.0", "--package-file", archive.Name())
	s.Az("batch", "application", "set", "--name", l.Account, "--resource-group", "lab", "--application-name", "tool", "--default-version", "1.0")
	connection := strings.TrimSpace(s.Az("storage", "account", "show-connection-string", "--name", "labstore", "--resource-group", "lab", "--output", "tsv"))
	for _, c := range []string{"input", "output"} {
		s.Az("storage", "container", "create", "--name", c, "--connection-string", connection)
	}
	s.Az("storage", "blob", "upload", "--container-name", "input", "--name", "deep/data.txt", "--file", write("data.txt", "from a container\n"), "--connection-string", connection)
	sas := strings.TrimSpace(s.Az("storage", "container", "generate-sas", "--name", "output", "--permissions", "cw", "--expiry", "2099-01-01T00:00Z", "--https-only", "--connection-string", connection, "--output", "tsv"))

	body := l.PoolBody("p", 1)
	body["applicationPackageReferences"] = []any{map[string]any{"applicationId": "tool"}}
	l.AddPool(body, 3*time.Minute)
	if a := l.Batch(http.MethodPost, "/jobs", map[string]any{"id": "j", "poolInfo": map[string]any{"poolId": "p"}}); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	task := map[string]any{"id": "t", "commandLine": `/bin/sh -c 'cat in/deep/data.txt; "$AZ_BATCH_APP_PACKAGE_tool/bin/caller"; echo why >&2; exit 3'`,
		"authenticationTokenSettings": map[string]any{"access": []string{"job"}},
		"resourceFiles":               []any{map[string]any{"autoStorageContainerName": "input", "filePath": "in"}},
		"outputFiles": []any{map[string]any{"filePattern": "../std*.txt", "uploadOptions": map[string]any{"uploadCondition": "taskcompletion"},
			"destination": map[string]any{"container": map[string]any{"containerUrl": "https://labstore.blob.core.windows.net/output?" + sas, "path": "t"}}}}}
	if a := l.Batch(http.MethodPost, "/jobs/j/tasks", task); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	lab.Wait(t, 2*time.Minute, "the task is completed", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/jobs/j/tasks/t", nil)
		return strings.Contains(string(a.Body), `"state":"completed"`), string(a.Body)
	})
	if a := l.Batch(http.MethodGet, "/jobs/j/tasks/t", nil); !strings.Contains(string(a.Body), `"code":"FailureExitCode"`) || !strings.Contains(string(a.Body), `"exitCode":3`) {
		t.Errorf("%s", a.Body)
	}
	download := func(name string) string {
		to := filepath.Join(dir, "download")
		os.Remove(to)
		s.Az("storage", "blob", "download", "--container-name", "output", "--name", name, "--file", to, "--connection-string", connection)
		text, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got, want := download("t/stdout.txt"), "from a container\njobs/j 200 true\npools 403 false\n"; got != want {
		t.Errorf("stdout.txt is %q, want %q", got, want)
	}
	if got := download("t/stderr.txt"); got != "why\n" {
		t.Errorf("stderr.txt is %q", got)
	}
	s.Az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
	if got := strings.TrimSpace(s.Az("batch", "application", "summary", "list", "--query", "[].versions[0]", "--output", "tsv")); got != "1.0" {
		t.Errorf("summary: %q", got)
	}
	writable := strings.TrimSpace(s.Az("storage", "container", "generate-sas", "--name", "output", "--permissions", "cw", "--expiry", "2099-01-01T00:00Z", "--connection-string", connection, "--output", "tsv"))
	if got := strings.TrimSpace(s.Az("batch", "node", "service-logs", "upload", "--pool-id", "p", "--node-id", l.Nodes("p")[0].ID, "--container-url", "https://labstore.blob.core.windows.net/output?"+writable,
		"--start-time", "2020-01-01T00:00:00Z", "--query", "numberOfFilesUploaded", "--output", "tsv")); got != "2" {
		t.Errorf("uploaded %s logs", got)
	}
}

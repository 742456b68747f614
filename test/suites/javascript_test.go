//go:build e2e && suites

package suites

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vitest is the configuration of the runner; the repository's own one comes with
// programs of its build. The one alias is a package that no index has.
const vitest = `import { defineConfig } from "vitest/config";
export default defineConfig({
  resolve: { alias: { "@azure-tools/test-credential": new URL("../../test-utils/test-credential/src/index.ts", import.meta.url).pathname } },
  test: {
    testTimeout: 240000, hookTimeout: 240000, fileParallelism: false, watch: false,
    include: ["test/**/*.spec.ts"], exclude: ["test/**/browser/*.spec.ts", "test/snippets.spec.ts"],
    reporters: ["junit"], outputFile: { junit: process.env.JUNIT },
  },
});
`

// TestJavaScriptBatch runs the tests of @azure-rest/batch in live mode.
// MILLPOND_SUITES names a folder with a clone, azure-sdk-for-js.
func TestJavaScriptBatch(t *testing.T) {
	root := filepath.Join(os.Getenv("MILLPOND_SUITES"), "azure-sdk-for-js")
	if _, err := os.Stat(filepath.Join(root, "sdk", "batch", "batch-rest")); err != nil || os.Getenv("MILLPOND_SUITES") == "" {
		t.Skip("MILLPOND_SUITES names no folder with a clone of azure-sdk-for-js")
	}
	version := revision(root)
	dir := cache(t, "azure-rest-batch-"+version)
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"sdk/batch/batch-rest", "sdk/test-utils/test-credential"} {
			if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(root, part))); err != nil {
				t.Fatal(err)
			}
		}
		// Both packages name these.
		configs, _ := filepath.Glob(filepath.Join(root, "tsconfig*.json"))
		for _, f := range configs {
			write(t, filepath.Join(dir, filepath.Base(f)), read(t, f))
		}
		write(t, filepath.Join(dir, "package.json"), `{"name": "suites", "private": true, "type": "module"}`)
		command(t, dir, nil, "npm", "install", "--silent", "--no-fund", "--no-audit", "@azure-rest/core-client@2", "@azure/core-auth@1", "@azure/core-paging@1", "@azure/core-rest-pipeline@1",
			"@azure/logger@1", "@azure/core-util@1", "@azure/identity@4", "@azure-tools/test-recorder@4.1.0", "tslib@2", "dotenv@16", "moment@2", "vitest@3")
		write(t, filepath.Join(dir, "complete"), "")
	}
	suite := filepath.Join(dir, "sdk", "batch", "batch-rest")
	write(t, filepath.Join(suite, "vitest.millpond.mjs"), vitest)
	var pkg struct{ Version string }
	if err := json.Unmarshal([]byte(read(t, filepath.Join(suite, "package.json"))), &pkg); err != nil {
		t.Fatal(err)
	}

	a := serve(t, slow(t)...)
	var keys struct{ Primary string }
	if err := a.Post(a.Group+"/providers/Microsoft.Batch/batchAccounts/"+a.Name+"/listKeys", nil).JSON(&keys); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "junit.xml")
	got := a.RunLong(30*time.Minute, "env", "-C", suite, "TEST_MODE=live", "JUNIT="+log, "AZURE_BATCH_ACCOUNT="+a.Name, "AZURE_BATCH_ACCESS_KEY="+keys.Primary, "AZURE_BATCH_ENDPOINT=https://"+a.host(),
		filepath.Join(dir, "node_modules", ".bin", "vitest"), "run", "--config", "vitest.millpond.mjs")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatalf("vitest wrote no report; exit code %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	var report1 struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report1); err != nil {
		t.Fatal(err)
	}
	r := Result{Suite: "javascript-batch", Title: "JavaScript @azure-rest/batch", Version: pkg.Version + ", " + version, On: "fake"}
	for _, s := range report1.Suites {
		for _, c := range s.Cases {
			k := Case{Name: strings.TrimSuffix(filepath.Base(s.Name), ".spec.ts") + ": " + c.Name[strings.LastIndex(c.Name, " > ")+3:], Status: Passed}
			switch {
			case c.Failure != nil:
				k.Status, k.Said = Failed, fmt.Sprintf("%.400s", strings.ReplaceAll(c.Failure.Message, "\n", " "))
			case c.Skipped != nil:
				k.Status = Skipped
			}
			r.Cases = append(r.Cases, k)
		}
	}
	if len(r.Cases) == 0 {
		t.Fatalf("the suite ran no test\n%s%s", got.Stdout, got.Stderr)
	}
	report(t, r)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Check(); err != nil {
		t.Fatal(err)
	}
}

func TestFileOverridesDefaults(t *testing.T) {
	p := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(p, []byte("listen: 127.0.0.1:9\nnodes:\n  bootLimit: 90s\nregions:\n- name: lab\n  stores: [/a, /b]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(p, true)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:9" || time.Duration(c.Nodes.BootLimit) != 90*time.Second || len(c.Regions) != 1 || c.Quotas.Pools != 100 {
		t.Fatalf("got %+v", c)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"listen: [x]":                          "line 1: stands where a text must",
		"regions: x":                           "line 1: `x` stands where a list must",
		"quotas: x":                            "line 1: `x` stands where a group of settings must",
		"quotas: {pools: many}":                "line 1: `many` stands where a whole number must",
		"pools: {growOnArrival: perhaps}":      "line 1: `perhaps` stands where true or false must",
		"fake: {speed: fast}":                  "line 1: `fast` stands where a number must",
		"lisen: x":                             "line 1: there is no setting lisen here",
		"launcher: docker":                     "launcher is \"docker\"; it must be local or fake",
		"logLevel: loud":                       "it must be debug, info, warn or error",
		"nodes: {bootLimit: soon}":             "duration",
		"regions: [{name: West US 2}]":         "lower case",
		"regions: [{name: a}, {name: a}]":      "twice",
		"tenants: [{name: ../x, domain: a.b}]": "tenant",
		"quotas: {pools: 0}":                   "quotas.pools",
		"vmSizes: [{name: x, vcpus: 0}]":       "VM size",
		"fake: {failureRate: 2}":               "failureRate",
	} {
		c := Default()
		err := Parse([]byte(text), &c)
		if err == nil {
			err = c.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a mention of %q", text, err, want)
		} else if strings.Contains(err.Error(), "config.") || strings.Contains(err.Error(), "unmarshal") {
			t.Errorf("%s: the message speaks of this program: %v", text, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none"), false); err != nil {
		t.Error(err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), true); err == nil {
		t.Error("a file that was asked for and is missing was not noticed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("listen: x\n"))
	f.Add([]byte("regions:\n- name: a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		if Parse(data, &c) == nil {
			_ = c.Check()
		}
	})
}

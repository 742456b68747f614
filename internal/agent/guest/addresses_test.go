package guest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRepeatAddresses(t *testing.T) {
	const tcg, kvm = "processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n", "processor\t: 0\nmodel name\t: AMD EPYC\n"
	for name, c := range map[string]struct {
		cpu, file, conf string
		again           bool
		want            string
	}{
		"emulated":                        {cpu: tcg, want: "0\n"},
		"a processor of the host's":       {cpu: kvm, want: "2\n"},
		"an agent that starts again":      {cpu: tcg, again: true, want: "2\n"},
		"decided in sysctl.d":             {cpu: tcg, file: "etc/sysctl.d/60-hard.conf", conf: "# hard\nkernel.randomize_va_space = 2\n", want: "2\n"},
		"decided with slashes":            {cpu: tcg, file: "etc/sysctl.conf", conf: "-kernel/randomize_va_space=2\n", want: "2\n"},
		"a comment decides nothing":       {cpu: tcg, file: "etc/sysctl.conf", conf: "#kernel.randomize_va_space = 2\n", want: "0\n"},
		"other settings decide nothing":   {cpu: tcg, file: "etc/sysctl.conf", conf: "kernel.panic=1\n", want: "0\n"},
		"a machine without /proc/cpuinfo": {want: "2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				full := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			const setting = "proc/sys/kernel/randomize_va_space"
			write(setting, "2\n")
			write("run/other", "")
			if c.cpu != "" {
				write("proc/cpuinfo", c.cpu)
			}
			if c.file != "" {
				write(c.file, c.conf)
			}
			if c.again {
				if err := repeatAddresses(root); err != nil {
					t.Fatal(err)
				}
				write(setting, "2\n") // somebody's choice
			}
			if err := repeatAddresses(root); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(root, setting)); err != nil || string(b) != c.want {
				t.Errorf("%q, %v; want %q", b, err, c.want)
			}
		})
	}
}

package baseimage

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"millpond.dev/millpond/internal/atomicfile"
)

// deb is one exact package of the host's mirror.
type deb struct {
	// File is the archive's name, NAME_VERSION_ARCH.deb.
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

func (d deb) name() string {
	n, _, _ := strings.Cut(d.File, "_")
	return n
}

// kernelPackage is the meta package whose dependency is the current kernel.
const kernelPackage = "linux-image-cloud-amd64"

type resolved struct {
	Fingerprint string `json:"fingerprint"`
	Debs        []deb  `json:"debs"`
}

// resolveDebs finds the current version of each package in the host's package
// lists. kernelPackage is replaced with the kernel it depends on. apt takes over a
// second to answer, so the answer is kept for as long as apt's lists do not change.
func resolveDebs(ctx context.Context, cache string, names []string) ([]deb, error) {
	print, err := aptFingerprint(names)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(strings.Join(names, " ")))
	memo := filepath.Join(cache, "resolved-"+hex.EncodeToString(sum[:6])+".json")
	if b, err := os.ReadFile(memo); err == nil {
		var r resolved
		if json.Unmarshal(b, &r) == nil && r.Fingerprint == print && len(r.Debs) > 0 {
			return r.Debs, nil
		}
	}
	exact := make([]string, 0, len(names))
	for _, n := range names {
		if n == kernelPackage {
			if n, err = kernelOf(ctx, n); err != nil {
				return nil, err
			}
		}
		exact = append(exact, n)
	}
	// In an empty folder: apt-get leaves out what the current one holds already.
	empty, err := os.MkdirTemp(cache, ".resolve-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(empty)
	out, err := command{name: "apt-get", dir: empty, args: append([]string{"download", "--print-uris", "-qq"}, exact...)}.output(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w\nIf the packages are not known, refresh the host's lists with: apt-get update", err)
	}
	r := resolved{Fingerprint: print}
	if r.Debs, err = parseURIs(string(out)); err != nil {
		return nil, err
	}
	if len(r.Debs) != len(exact) {
		return nil, fmt.Errorf("apt-get knows %d of the %d packages %s; refresh the host's lists with: apt-get update", len(r.Debs), len(exact), strings.Join(exact, " "))
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return r.Debs, atomicfile.Write(memo, b, 0o644)
}

var uriLine = regexp.MustCompile(`^'[^']+' (\S+\.deb) \d+ SHA256:([0-9a-f]{64})$`)

// parseURIs reads the lines of apt-get download --print-uris.
func parseURIs(out string) ([]deb, error) {
	var debs []deb
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		m := uriLine.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			return nil, fmt.Errorf("apt-get printed a line without name and SHA-256: %q", l)
		}
		debs = append(debs, deb{File: m[1], SHA256: m[2]})
	}
	sort.Slice(debs, func(i, j int) bool { return debs[i].File < debs[j].File })
	return debs, nil
}

var kernelDepends = regexp.MustCompile(`(?m)^Depends: (linux-image-[0-9][^ ,\n]*)`)

func kernelOf(ctx context.Context, meta string) (string, error) {
	out, err := command{name: "apt-cache", args: []string{"show", "--no-all-versions", meta}}.output(ctx)
	if err != nil {
		return "", fmt.Errorf("%w\nIf the package is not known, refresh the host's lists with: apt-get update", err)
	}
	m := kernelDepends.FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("the package %s names no kernel", meta)
	}
	return m[1], nil
}

// aptFingerprint changes when apt's lists or sources change.
func aptFingerprint(names []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, names)
	for _, dir := range []string{"/var/lib/apt/lists", "/etc/apt", "/etc/apt/sources.list.d", "/etc/apt/preferences.d"} {
		ents, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, e := range ents {
			if i, err := e.Info(); err == nil && i.Mode().IsRegular() {
				fmt.Fprintln(h, dir, i.Name(), i.Size(), i.ModTime().UnixNano())
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fetchDebs makes sure that every package lies in the cache, whole.
func fetchDebs(ctx context.Context, cache string, debs []deb) (fetched int, err error) {
	dir := debDir(cache)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	var want []deb
	for _, d := range debs {
		if _, err := os.Stat(filepath.Join(dir, d.File)); err != nil {
			want = append(want, d)
		}
	}
	if len(want) == 0 {
		return 0, nil
	}
	// A folder of its own: a broken download never gets a name in the cache.
	tmp, err := os.MkdirTemp(cache, ".download-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	args := []string{"download", "-qq", "-o", "APT::Sandbox::User=root"}
	for _, d := range want {
		args = append(args, d.spec())
	}
	if err := (command{name: "apt-get", args: args, dir: tmp}).run(ctx); err != nil {
		return 0, fmt.Errorf("%w\nCheck the network and the host's package sources, then run: apt-get update", err)
	}
	for _, d := range want {
		p := filepath.Join(tmp, d.File)
		got, err := hashFile(p)
		if err != nil {
			return 0, err
		}
		if got != d.SHA256 {
			return 0, fmt.Errorf("%s has the SHA-256 %s, the package list says %s; run apt-get update and try again", d.File, got, d.SHA256)
		}
		if err := os.Rename(p, filepath.Join(dir, d.File)); err != nil {
			return 0, err
		}
	}
	return len(want), nil
}

// spec is NAME=VERSION as apt-get takes it. In file names apt escapes the colon
// of an epoch.
func (d deb) spec() string {
	p := strings.Split(strings.TrimSuffix(d.File, ".deb"), "_")
	if len(p) < 2 {
		return p[0]
	}
	return p[0] + "=" + strings.ReplaceAll(p[1], "%3a", ":")
}

func debDir(cache string) string { return filepath.Join(cache, "debs") }

// walkDeb calls do for each entry of a package's file tree; r is valid for
// regular files until do returns. Names are relative and clean: usr/bin/bash.
func walkDeb(ctx context.Context, file string, do func(h *tar.Header, r io.Reader) error) error {
	bin, err := findTool("dpkg-deb")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, bin, "--fsys-tarfile", file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	walk := func() error {
		t := tar.NewReader(out)
		for {
			h, err := t.Next()
			if err == io.EOF {
				// The padding after the end must be read, or dpkg-deb dies of a closed pipe.
				_, err := io.Copy(io.Discard, out)
				return err
			}
			if err != nil {
				return err
			}
			h.Name = strings.TrimPrefix(path.Clean("/"+h.Name), "/")
			if err := do(h, t); err != nil {
				return err
			}
		}
	}
	werr := walk()
	if werr != nil {
		cmd.Process.Kill()
	}
	err = cmd.Wait()
	if werr != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), werr)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w: %s", filepath.Base(file), err, tail(stderr.String()))
	}
	return nil
}

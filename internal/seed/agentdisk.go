package seed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// AgentDisk makes the agent disk for the agent at path, once, in the folder
// cache, and returns its file. The file's name holds the agent's SHA-256, so a
// disk that VMs have attached is never changed under them.
func AgentDisk(cache, path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("seed: open the agent: %w", err)
	}
	defer in.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return "", fmt.Errorf("seed: read the agent: %w", err)
	}
	name := filepath.Join(cache, "agent-"+hex.EncodeToString(sum.Sum(nil))[:16]+".iso")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	out, err := os.CreateTemp(cache, ".tmp-agent-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := WriteAgentDisk(out, in); err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	return name, os.Rename(out.Name(), name)
}

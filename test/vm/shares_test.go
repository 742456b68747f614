//go:build e2e

package vm

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// shareServers are an NFS and an SMB server on the host's loopback, each on a
// port of its own and with one directory.
type shareServers struct {
	NFSPort, SMBPort int
	NFS, SMB         string
	User, Password   string
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serveShares starts ganesha.nfsd and smbd in the foreground. Both need root,
// as they take on the identities of their clients.
func serveShares(t *testing.T) shareServers {
	t.Helper()
	for _, name := range []string{"ganesha.nfsd", "smbd", "smbpasswd"} {
		if _, err := exec.LookPath(name); err != nil || os.Geteuid() != 0 {
			t.Skipf("the servers of shares need root and the packages that 'scripts/install shares' installs: %v", err)
		}
	}
	dir, err := os.MkdirTemp("", "mp-shares-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := shareServers{NFSPort: freePort(t), SMBPort: freePort(t), NFS: dir + "/nfs", SMB: dir + "/smb", User: "root", Password: "secret, with a comma"}
	for _, d := range []string{dir, s.NFS, s.SMB, dir + "/recovery", dir + "/private", dir + "/state"} {
		mode := os.FileMode(0o755)
		if d == s.NFS {
			mode = 0o777
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("nfs/input", "from NFS\n")
	write("smb/input", "from SMB\n")
	run := func(port int, name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, name, args...)
		out, err := os.Create(filepath.Join(dir, name+".out"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cancel()
			_ = cmd.Wait()
			out.Close()
		})
		lab.Wait(t, time.Minute, name+" listens", func() (bool, string) {
			c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				c.Close()
			}
			text, _ := os.ReadFile(out.Name())
			return err == nil, string(text)
		})
	}
	nfs := write("ganesha.conf", fmt.Sprintf(`NFS_CORE_PARAM { Protocols = 4; NFS_Port = %d; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = %s/recovery; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = /data; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = VFS; } }
`, s.NFSPort, dir, s.NFS))
	run(s.NFSPort, "ganesha.nfsd", "-F", "-f", nfs, "-L", dir+"/ganesha.log", "-p", dir+"/ganesha.pid")
	smb := write("smb.conf", strings.NewReplacer("DIR", dir, "PORT", fmt.Sprint(s.SMBPort)).Replace(`[global]
  smb ports = PORT
  interfaces = 127.0.0.1/8
  bind interfaces only = yes
  private dir = DIR/private
  lock directory = DIR/state
  state directory = DIR/state
  cache directory = DIR/state
  pid directory = DIR/state
  ncalrpc dir = DIR/state/ncalrpc
  log file = DIR/smb.log
  disable spoolss = yes
  load printers = no
[share]
  path = DIR/smb
  read only = no
`))
	add := exec.Command("smbpasswd", "-c", smb, "-s", "-a", s.User)
	add.Stdin = strings.NewReader(s.Password + "\n" + s.Password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("smbpasswd: %v %s", err, out)
	}
	run(s.SMBPort, "smbd", "--foreground", "--no-process-group", "--configfile", smb, "--debug-stdout")
	return s
}

// mounts names the servers as a pool does, with one SMB share by each of the two
// ways.
func (s shareServers) mounts() []any {
	const host = "host.millpond.internal"
	return []any{
		map[string]any{"nfsMountConfiguration": map[string]any{"source": host + ":/data", "relativeMountPath": "nfs", "mountOptions": fmt.Sprintf("-o port=%d", s.NFSPort)}},
		map[string]any{"cifsMountConfiguration": map[string]any{"source": "//" + host + "/share", "relativeMountPath": "smb", "username": s.User, "password": s.Password, "mountOptions": fmt.Sprintf("-o vers=3.1.1,port=%d", s.SMBPort)}},
		map[string]any{"azureFileShareConfiguration": map[string]any{"accountName": s.User, "accountKey": s.Password, "azureFileUrl": fmt.Sprintf("https://%s:%d/share", host, s.SMBPort), "relativeMountPath": "files"}}}
}

// checkShares has tasks read and write each share as an ordinary user.
func checkShares(t *testing.T, l *lab.Lab, s shareServers, pool string) {
	t.Helper()
	l.AddJob(pool, pool,
		shell("read", "cd $AZ_BATCH_NODE_MOUNTS_DIR; cat nfs/input smb/input files/input; id -u > nfs/"+pool+"; echo $AZ_BATCH_TASK_ID > smb/"+pool+"; cat files/"+pool),
		shell("kinds", "grep $AZ_BATCH_NODE_MOUNTS_DIR/ /proc/self/mounts | cut -d \" \" -f 3"))
	l.WaitTasks(pool, 3*time.Minute)
	if out := l.Stdout(pool, "read"); out != "from NFS\nfrom SMB\nfrom SMB\nread\n" {
		t.Errorf("read printed %q", out)
	}
	if out := l.Stdout(pool, "kinds"); strings.Join(strings.Fields(out), " ") != "nfs4 cifs cifs" {
		t.Errorf("mounted are %q", out)
	}
	for _, name := range []string{s.NFS + "/" + pool, s.SMB + "/" + pool} {
		if text, err := os.ReadFile(name); err != nil || len(text) < 2 {
			t.Errorf("on the server: %q %v", text, err)
		}
	}
}

// TestShares: a Debian node mounts NFS and SMB shares by its kernel alone, and
// one whose kernel cannot says what to do.
func TestShares(t *testing.T) {
	shares := serveShares(t)
	s := lab.Start(t)
	l := s.Furnish(s.DebianVHD(), "V1")
	cannot := l.PoolBody("cannot", 1)
	cannot["virtualMachineConfiguration"].(map[string]any)["imageReference"] = map[string]any{"virtualMachineImageId": publishDisk(l, "plain", l.Upload(s.TinyVHD("ubuntu-16.04"), "plaindisk", "V1"), "V1")}
	cannot["mountConfiguration"] = shares.mounts()
	if a := l.Batch(http.MethodPost, "/pools", cannot); a.Status != http.StatusCreated {
		t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	lab.Wait(t, 2*time.Minute, "the node is unusable and says why", func() (bool, string) {
		a := l.Batch(http.MethodGet, "/pools/cannot/nodes", nil)
		return strings.Contains(string(a.Body), `"unusable"`) && strings.Contains(string(a.Body), "MountConfigurationError") && strings.Contains(string(a.Body), "install the module nfs"), string(a.Body)
	})
	l.Batch(http.MethodDelete, "/pools/cannot", nil)
	body := l.PoolBody("kernel", 1)
	body["vmSize"] = "Standard_D2s_v3"
	body["virtualMachineConfiguration"].(map[string]any)["nodeAgentSKUId"] = "batch.node.debian 12"
	body["mountConfiguration"] = shares.mounts()
	l.AddPool(body, 8*time.Minute)
	checkShares(t, l, shares, "kernel")
}

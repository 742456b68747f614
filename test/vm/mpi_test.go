//go:build e2e

package vm

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// mpi is the programs of TestMPI.
var mpi = map[string]string{
	// From each node to each by way of the other, then the ranks.
	"run.sh": `for a in "$@"; do
  echo "$a slots=1" >> hosts
  for b in "$@"; do ssh -n "$a" "ssh -n $b hostname; getent hosts $a" >> there || exit 1; done
done
exec mpirun --hostfile hosts --mca btl tcp,self --mca plm_rsh_no_tree_spawn 1 python3 "$AZ_BATCH_TASK_SHARED_DIR/hello.py"
`,
	"hello.py": `import socket
from mpi4py import MPI
world = MPI.COMM_WORLD
if world.rank == 0:
    for rank in range(1, world.size):
        world.send("hello", dest=rank)
else:
    world.recv(source=0)
print("rank %d of %d on %s, sum %d" % (world.rank, world.size, socket.gethostname(), world.allreduce(world.rank)), flush=True)
`,
}

// TestMPI runs an MPI program on several Debian nodes. mpirun on the primary starts
// it on the others by ssh, as the pool's account with the pool's key, and finds
// them by the names in its hostfile.
func TestMPI(t *testing.T) {
	const nodes = 2
	s := lab.Start(t)
	l := s.Furnish(s.DebianVHD("--package", "python3-mpi4py"), "V1")
	files := serveFiles(t, mpi)
	pool := l.PoolBody("p", nodes)
	pool["vmSize"] = "Standard_D2s_v3"
	pool["virtualMachineConfiguration"].(map[string]any)["nodeAgentSKUId"] = "batch.node.debian 12"
	pool["enableInterNodeCommunication"] = true
	file, _ := key(t, s.Data)
	private, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool["userAccounts"] = []any{map[string]any{"name": "mpi", "password": visitorPassword, "linuxUserConfiguration": map[string]any{"uid": 4000, "gid": 4000, "sshPrivateKey": string(private)}}}
	l.AddPool(pool, 8*time.Minute)

	var common []any
	for name := range mpi {
		common = append(common, map[string]any{"httpUrl": files + "/" + name, "filePath": name})
	}
	list := l.Nodes("p")
	var names []string
	for _, n := range list {
		names = append(names, hostName(n))
	}
	script := `bash "$AZ_BATCH_TASK_SHARED_DIR/run.sh" ` + strings.Join(names, " ")
	task := with(shell("mpi", script), "userIdentity", map[string]any{"username": "mpi"})
	task["constraints"] = map[string]any{"maxWallClockTime": "PT3M"}
	task["multiInstanceSettings"] = map[string]any{"numberOfInstances": nodes, "commonResourceFiles": common,
		// A server for SSH that a first boot is still making keys for takes a moment.
		"coordinationCommandLine": `/bin/bash -c 'for i in $(seq 60); do (exec 3<>/dev/tcp/127.0.0.1/22) 2>/dev/null && exit 0; sleep 1; done; exit 1'`}
	l.AddJob("j", "p", task)
	v := l.WaitTasks("j", 5*time.Minute)["mpi"]
	if v.Info.Result != "success" {
		t.Fatalf("%s\n%s", l.Batch("GET", "/jobs/j/tasks/mpi", nil).Body, l.Batch("GET", "/jobs/j/tasks/mpi/files/stderr.txt", nil).Body)
	}
	lines := strings.Split(strings.TrimSpace(l.Stdout("j", "mpi")), "\n")
	if len(lines) != nodes {
		t.Fatal(lines)
	}
	slices.Sort(lines)
	there := string(l.Batch("GET", "/jobs/j/tasks/mpi/files/wd%2Fthere", nil).Body)
	for _, n := range list {
		if line := hostName(n) + "\n"; !strings.Contains(there, line) || !strings.Contains(there, n.IPAddress+" ") || strings.Contains(there, "127.0.") {
			t.Errorf("by ssh: %q", there)
		}
	}
	hosts := map[string]bool{}
	for rank, line := range lines {
		var r, size, sum int
		var host string
		if _, err := fmt.Sscanf(line, "rank %d of %d on %s sum %d", &r, &size, &host, &sum); err != nil || r != rank || size != nodes || sum != nodes*(nodes-1)/2 {
			t.Errorf("%q: %v", line, err)
		}
		hosts[host] = true
	}
	if len(hosts) != nodes {
		t.Errorf("the ranks ran on %v", hosts)
	}
}

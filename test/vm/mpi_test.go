//go:build e2e

package vm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// The programs of TestMPI. Open MPI starts its daemons on the other hosts by a
// remote shell; here that is a server which the coordination command leaves
// running, so that no keys have to be carried.
var mpi = map[string]string{
	"shelld.py": `import os, socketserver, subprocess
class Shell(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline().decode()
        subprocess.run(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=self.wfile, stderr=self.wfile)
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("", 7001), Shell)
if os.fork():
    os._exit(0)
server.serve_forever()
`,
	"shell.py": `import socket, sys
with socket.create_connection((sys.argv[1], 7001)) as s:
    s.sendall((" ".join(sys.argv[2:]) + "\n").encode())
    while data := s.recv(4096):
        sys.stderr.buffer.write(data)
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

// TestMPI runs an MPI program on several Debian nodes, started by mpirun on the
// primary with the host list that the node has in its environment.
func TestMPI(t *testing.T) {
	const nodes = 2
	s := lab.Start(t)
	l := s.Furnish(s.DebianVHD("--package", "python3-mpi4py"), "V1")
	files := serveFiles(t, mpi)
	pool := l.PoolBody("p", nodes)
	pool["vmSize"] = "Standard_D2s_v3"
	pool["virtualMachineConfiguration"].(map[string]any)["nodeAgentSKUId"] = "batch.node.debian 12"
	pool["enableInterNodeCommunication"] = true
	l.AddPool(pool, 8*time.Minute)

	var common []any
	for name := range mpi {
		common = append(common, map[string]any{"httpUrl": files + "/" + name, "filePath": name})
	}
	task := shell("mpi", `mpirun --host "$AZ_BATCH_HOST_LIST" --mca btl tcp,self --mca plm_rsh_no_tree_spawn 1 `+
		`--mca plm_rsh_agent "python3 $AZ_BATCH_TASK_SHARED_DIR/shell.py" python3 "$AZ_BATCH_TASK_SHARED_DIR/hello.py"`)
	task["constraints"] = map[string]any{"maxWallClockTime": "PT2M"}
	task["multiInstanceSettings"] = map[string]any{"numberOfInstances": nodes, "commonResourceFiles": common,
		"coordinationCommandLine": `/bin/sh -c 'python3 "$AZ_BATCH_TASK_SHARED_DIR/shelld.py"'`}
	l.AddJob("j", "p", task)
	v := l.WaitTasks("j", 4*time.Minute)["mpi"]
	if v.Info.Result != "success" {
		t.Fatalf("%s\n%s", l.Batch("GET", "/jobs/j/tasks/mpi", nil).Body, l.Batch("GET", "/jobs/j/tasks/mpi/files/stderr.txt", nil).Body)
	}
	lines := strings.Split(strings.TrimSpace(l.Stdout("j", "mpi")), "\n")
	if len(lines) != nodes {
		t.Fatal(lines)
	}
	slices.Sort(lines)
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

package batchapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// These tests let the real clients judge the edge, over the verbs of memory_test.go.

type fixedToken string

func (f fixedToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(f), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// ran puts a finished task with files on a node.
func ran(s *service, job, task string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	zero := 0
	t := s.tasks[job][task]
	t.Node, t.Pool, t.Directory, t.State, t.Started, t.Ended, t.ExitCode, t.Result = "n1", "mypool", "workitems/"+job+"/job-1/"+task, millpond.TaskCompleted, s.now(), s.now(), &zero, "success"
	s.tasks[job][task] = t
	s.nodes["n1"] = sampleNode(s.now())
	s.files["workitems/"+job+"/job-1/"+task+"/stdout.txt"] = []byte("hello world\n")
	s.files["workitems/"+job+"/job-1/"+task+"/wd/out put.txt"] = []byte("result\n")
}

func TestGoClient(t *testing.T) {
	e, s := newEdge(t)
	server := httptest.NewServer(e)
	defer server.Close()
	c, err := azbatch.NewClient(server.URL+"/batch/acct.westus2", fixedToken("admin"), &azbatch.ClientOptions{ClientOptions: policy.ClientOptions{InsecureAllowCredentialWithHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	try := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, err = c.CreatePool(ctx, azbatch.CreatePoolContent{ID: ptr("mypool"), VMSize: ptr("Standard_A1_v2"), TargetDedicatedNodes: ptr(int32(1000)),
		VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: ptr("batch.node.debian 12"),
			ImageReference: &azbatch.ImageReference{VirtualMachineImageID: ptr("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/g/images/d")}},
		StartTask: &azbatch.StartTask{CommandLine: ptr("true"), WaitForSuccess: ptr(true), UserIdentity: &azbatch.UserIdentity{AutoUser: &azbatch.AutoUserSpecification{ElevationLevel: ptr(azbatch.ElevationLevelAdmin)}}}}, nil)
	try("create pool", err)
	p, err := c.GetPool(ctx, "mypool", nil)
	try("get pool", err)
	if *p.ID != "mypool" || !bytes.Contains([]byte(*p.ResizeTimeout), []byte("PT15M")) || *p.StartTask.UserIdentity.AutoUser.ElevationLevel != azbatch.ElevationLevelAdmin || p.LastModified == nil {
		t.Errorf("%+v", p)
	}
	_, err = c.GetPool(ctx, "mypool", &azbatch.GetPoolOptions{IfNoneMatch: p.ETag})
	if err == nil {
		t.Error("the condition held")
	}
	_, err = c.ResizePool(ctx, "mypool", azbatch.ResizePoolContent{TargetDedicatedNodes: ptr(int32(3))}, nil)
	try("resize", err)
	exists, err := c.PoolExists(ctx, "mypool", nil)
	try("exists", err)
	_ = exists
	_, err = c.CreateJob(ctx, azbatch.CreateJobContent{ID: ptr("j"), PoolInfo: &azbatch.PoolInfo{PoolID: ptr("mypool")}}, nil)
	try("create job", err)
	group := azbatch.TaskGroup{}
	for i := range 3 {
		group.Value = append(group.Value, azbatch.CreateTaskContent{ID: ptr(fmt.Sprint("t", i)), CommandLine: ptr("echo")})
	}
	added, err := c.CreateTaskCollection(ctx, "j", group, nil)
	try("create tasks", err)
	if len(added.Value) != 3 || *added.Value[2].Status != azbatch.TaskAddStatusSuccess || added.Value[2].LastModified == nil {
		t.Errorf("%+v", added)
	}
	ran(s, "j", "t1")
	pages, tasks := 0, 0
	for pager := c.NewListTasksPager("j", &azbatch.ListTasksOptions{MaxResults: ptr(int32(2)), SelectParam: []string{"id", "state"}, Filter: ptr("id ge 't0'")}); pager.More(); pages++ {
		page, err := pager.NextPage(ctx)
		try("list tasks", err)
		tasks += len(page.Value)
	}
	if pages != 2 || tasks != 3 {
		t.Errorf("%d pages, %d tasks", pages, tasks)
	}
	task, err := c.GetTask(ctx, "j", "t1", nil)
	try("get task", err)
	if *task.ExecutionInfo.ExitCode != 0 || *task.NodeInfo.TaskRootDirectory != "workitems/j/job-1/t1" {
		t.Errorf("%+v", task.Task)
	}
	f, err := c.GetTaskFile(ctx, "j", "t1", "wd/out put.txt", nil)
	try("get file", err)
	body, _ := io.ReadAll(f.Body)
	if string(body) != "result\n" || *f.ContentLength != 7 || f.LastModified == nil {
		t.Errorf("%q %+v", body, f)
	}
	f, err = c.GetTaskFile(ctx, "j", "t1", "stdout.txt", &azbatch.GetTaskFileOptions{OCPRange: ptr("bytes=6-10")})
	try("get range", err)
	if body, _ = io.ReadAll(f.Body); string(body) != "world" {
		t.Errorf("%q", body)
	}
	properties, err := c.GetTaskFileProperties(ctx, "j", "t1", "stdout.txt", nil)
	try("file properties", err)
	if *properties.ContentLength != 12 || *properties.OCPBatchFileIsDirectory {
		t.Errorf("%+v", properties)
	}
	files := 0
	for pager := c.NewListTaskFilesPager("j", "t1", &azbatch.ListTaskFilesOptions{Recursive: ptr(true)}); pager.More(); {
		page, err := pager.NextPage(ctx)
		try("list files", err)
		files += len(page.Value)
	}
	if files != 3 {
		t.Errorf("%d files", files)
	}
	counts, err := c.GetJobTaskCounts(ctx, "j", nil)
	try("counts", err)
	if *counts.TaskCounts.Running != 2 {
		t.Errorf("%+v", counts)
	}
	for pager := c.NewListNodesPager("mypool", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		try("list nodes", err)
		if len(page.Value) != 1 || *page.Value[0].VirtualMachineInfo.ImageReference.ExactVersion != "1.2.3" {
			t.Errorf("%+v", page.Value)
		}
	}
	for pager := c.NewListPoolNodeCountsPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		try("node counts", err)
		if *page.Value[0].Dedicated.Total != 3 {
			t.Errorf("%+v", page.Value)
		}
	}
	_, err = c.TerminateTask(ctx, "j", "t0", nil)
	try("terminate task", err)
	_, err = c.TerminateJob(ctx, "j", &azbatch.TerminateJobOptions{Parameters: &azbatch.TerminateJobContent{TerminationReason: ptr("done")}})
	try("terminate job", err)
	_, err = c.DeleteJob(ctx, "j", nil)
	try("delete job", err)
	_, err = c.DeletePool(ctx, "mypool", nil)
	try("delete pool", err)
}

// client runs a program against the edge with the account's key in az's environment.
func client(t *testing.T, server *httptest.Server, name string, arg ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, arg...)
	cmd.Env = append(os.Environ(), "AZURE_BATCH_ACCOUNT=acct", "AZURE_BATCH_ACCESS_KEY="+vectorKey, "AZURE_BATCH_ENDPOINT="+server.URL+"/batch/acct.westus2",
		"AZURE_CONFIG_DIR="+t.TempDir(), "AZURE_CORE_COLLECT_TELEMETRY=false", "PYTHONWARNINGS=ignore")
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("Allowed values: .")) {
		// Debian's az 2.45 has no values for some of its options and sends nothing.
		t.Logf("%s cannot do %v", name, arg)
	} else if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(arg, " "), err, out)
	}
	return string(out)
}

const pythonProgram = `
import os, io, datetime
import azure.batch as batch, azure.batch.models as m
from azure.batch.batch_auth import SharedKeyCredentials
c = batch.BatchServiceClient(SharedKeyCredentials(os.environ['AZURE_BATCH_ACCOUNT'], os.environ['AZURE_BATCH_ACCESS_KEY']), os.environ['AZURE_BATCH_ENDPOINT'])
start = m.StartTask(command_line="printenv AZ_BATCH_NODE_STARTUP_DIR")
start.run_elevated = True
c.pool.add(m.PoolAddParameter(id="pypool", vm_size="STANDARD_D2_V3", target_dedicated_nodes=1, start_task=start, resize_timeout=datetime.timedelta(minutes=20),
  virtual_machine_configuration=m.VirtualMachineConfiguration(image_reference=m.ImageReference(publisher="canonical", offer="server", sku="22_04"), node_agent_sku_id="batch.node.ubuntu 22.04")))
p = c.pool.get("pypool", pool_get_options=m.PoolGetOptions(select="id,resizeTimeout,state"))
assert p.resize_timeout == datetime.timedelta(minutes=20) and p.state == "active" and p.vm_size is None, p
assert c.pool.exists("pypool") and not c.pool.exists("nothere")
try:
    c.pool.add(m.PoolAddParameter(id="pypool", vm_size="x", target_dedicated_nodes=1, virtual_machine_configuration=m.VirtualMachineConfiguration(image_reference=m.ImageReference(virtual_machine_image_id="/x"), node_agent_sku_id="y")))
    assert False
except m.BatchErrorException as e:
    assert e.error.code == "PoolExists" and "already exists" in str(e), e
try:
    c.pool.add(m.PoolAddParameter(id="bad", vm_size="x", target_dedicated_nodes=1, application_licenses=["maya"], virtual_machine_configuration=m.VirtualMachineConfiguration(image_reference=m.ImageReference(virtual_machine_image_id="/x"), node_agent_sku_id="y")))
    assert False
except m.BatchErrorException as e:
    assert e.error.code == "UnsupportedProperty" and e.error.values[0].key == "PropertyName", e
c.pool.resize("pypool", m.PoolResizeParameter(target_dedicated_nodes=5))
c.pool.stop_resize("pypool")
c.pool.patch("pypool", m.PoolPatchParameter(metadata=[m.MetadataItem(name="a", value="b")]))
c.pool.update_properties("pypool", m.PoolUpdatePropertiesParameter(certificate_references=[], application_package_references=[], metadata=[]))
c.job.add(m.JobAddParameter(id="pyjob", pool_info=m.PoolInformation(pool_id="pypool"), constraints=m.JobConstraints(max_wall_clock_time=datetime.timedelta(hours=1))))
assert c.job.get("pyjob").constraints.max_wall_clock_time == datetime.timedelta(hours=1)
r = c.task.add_collection("pyjob", [m.TaskAddParameter(id="t%d" % i, command_line="echo") for i in range(250)], threads=2)
assert len(r.value) == 250 and all(x.status == "success" for x in r.value)
assert len(list(c.task.list("pyjob", m.TaskListOptions(max_results=100, select="id", filter="startswith(id,'t') and creationTime gt DateTime'2020-01-01T00:00:00Z'")))) == 250
assert c.job.get_task_counts("pyjob").task_counts.active == 1
assert c.task.get("pyjob", "t1").constraints.retention_time == datetime.timedelta(days=7)
assert [x.node_agent_sku_id for x in c.account.list_supported_images()] == ["batch.node.ubuntu 22.04", "batch.node.debian 12"]
assert c.account.list_pool_node_counts().next().dedicated.idle == 2
c.task.terminate("pyjob", "t1"); c.task.reactivate("pyjob", "t1"); c.task.delete("pyjob", "t2")
c.job.disable("pyjob", "requeue"); c.job.enable("pyjob"); c.job.terminate("pyjob", terminate_reason="enough"); c.job.delete("pyjob")
c.pool.delete("pypool")
files = list(c.file.list_from_task("j", "t1", recursive=True))
assert sorted(f.name for f in files) == ["stdout.txt", "wd", "wd/out put.txt"], files
assert [f.properties.content_length for f in files if f.name == "stdout.txt"] == [12]
assert b"".join(c.file.get_from_task("j", "t1", "wd/out put.txt")) == b"result\n"
assert b"".join(c.file.get_from_task("j", "t1", "stdout.txt", m.FileGetFromTaskOptions(ocp_range="bytes=6-10"))) == b"world"
h = c.file.get_properties_from_task("j", "t1", "stdout.txt", raw=True).headers
assert h["ocp-batch-file-isdirectory"] in ("false", False), h
n = c.compute_node.get("mypool", "n1")
assert n.virtual_machine_info.image_reference.exact_version == "1.2.3" and n.errors[0].code == "DiskFull"
c.compute_node.reboot("mypool", "n1", "requeue"); c.compute_node.disable_scheduling("mypool", "n1"); c.compute_node.enable_scheduling("mypool", "n1")
print("python is content")
`

func TestPythonClient(t *testing.T) {
	if err := exec.Command("/usr/bin/python3", "-c", "import azure.batch").Run(); err != nil {
		t.Skip("no azure-batch for /usr/bin/python3: ", err)
	}
	e, s := newEdge(t)
	server := httptest.NewServer(e)
	defer server.Close()
	finished(t, e, s)
	if out := client(t, server, "/usr/bin/python3", "-c", pythonProgram); !strings.Contains(out, "python is content") {
		t.Error(out)
	}
}

// finished adds job j with the task t1 that ran on node n1.
func finished(t *testing.T, e *Edge, s *service) {
	t.Helper()
	if _, err := e.Jobs.AddJob(t.Context(), "acct", millpond.JobSpec{ID: "j", Pool: "mypool"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Jobs.AddTask(t.Context(), "acct", "j", millpond.TaskSpec{ID: "t1", CommandLine: "x"}); err != nil {
		t.Fatal(err)
	}
	ran(s, "j", "t1")
}

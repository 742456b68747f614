package batchapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/pool"
)

func (r *request) pool() millpond.PoolID { return millpond.PoolID(r.Param("poolId")) }

// condition reads the four condition headers.
func (r *request) condition() (millpond.Condition, error) {
	return azwire.ParseCondition(r.Header, true)
}

func (e *Edge) addPool(w http.ResponseWriter, r *request) error {
	var in azbatch.CreatePoolContent
	m, err := readBody(w, r, e.shapes.poolAdd, false, &in)
	if err != nil {
		return err
	}
	spec, t, err := r.newPool(in, m)
	if err != nil {
		return err
	}
	p, err := e.Pools.Add(r.Context(), r.Caller, r.acct, spec, t)
	if err != nil {
		return err
	}
	warn(w, p.Warnings)
	return created(w, r, p, "pools", string(p.Spec.ID))
}

// newPool is the pool that a checked body asks for: in, and m where the model
// lacks something.
func (r *request) newPool(in azbatch.CreatePoolContent, m map[string]any) (millpond.PoolSpec, pool.Targets, error) {
	spec := poolSpec(in)
	spec.Image.AllowManaged = r.managedImages(spec.Image)
	spec.OldestJobFirst = oldestFirst(m)
	spec.Upgrade = upgradePolicy(in.UpgradePolicy, m)
	spec.Identities = identitiesOf(m)
	t, err := targets(in.TargetDedicatedNodes, in.TargetLowPriorityNodes, in.ResizeTimeout)
	if err == nil && truth0(in.EnableAutoScale) {
		var a pool.AutoScale
		a, err = autoScale(in.AutoScaleFormula, in.AutoScaleEvaluationInterval)
		t.AutoScale = &a
	}
	return spec, t, err
}

func (e *Edge) listPools(w http.ResponseWriter, r *request) error {
	return listWithStats(e, w, r, e.lists.pools, func(q millpond.ListQuery[millpond.Pool]) ([]millpond.Pool, string, error) {
		return e.Pools.List(r.Context(), r.acct.Name, q)
	}, e.poolStats)
}

// getPool also answers HEAD, where 404 is an ordinary answer.
func (e *Edge) getPool(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	p, err := e.Pools.Get(r.Context(), r.acct.Name, r.pool())
	if err != nil {
		return err
	}
	versionHeaders(w, p)
	if err := cond.Check(p, millpond.Read); err != nil {
		return err
	}
	warn(w, p.Warnings)
	encode, err := e.poolStats(r, []millpond.Pool{p})
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "pools", e.lists.pools.members, encode(p))
}

func (e *Edge) deletePool(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	if err := e.Pools.Delete(r.Context(), r.acct.Name, r.pool(), cond); err != nil {
		return err
	}
	return empty(w, http.StatusAccepted)
}

func (e *Edge) resizePool(w http.ResponseWriter, r *request) error {
	var in azbatch.ResizePoolContent
	if _, err := readBody(w, r, e.shapes.poolResize, false, &in); err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	t, err := targets(in.TargetDedicatedNodes, in.TargetLowPriorityNodes, in.ResizeTimeout)
	if err != nil {
		return err
	}
	if err := e.Pools.Resize(r.Context(), r.acct.Name, r.pool(), cond, t, option(in.NodeDeallocationOption)); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusAccepted)
}

func (e *Edge) stopResize(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	if err := e.Pools.StopResize(r.Context(), r.acct.Name, r.pool(), cond); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusAccepted)
}

func (e *Edge) removeNodes(w http.ResponseWriter, r *request) error {
	var in azbatch.RemoveNodeContent
	if _, err := readBody(w, r, e.shapes.removeNodes, false, &in); err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	timeout, err := resizeTimeout(in.ResizeTimeout)
	if err != nil {
		return err
	}
	nodes := make([]millpond.NodeID, 0, len(in.NodeList))
	for _, n := range in.NodeList {
		nodes = append(nodes, millpond.NodeID(n))
	}
	if err := e.Pools.RemoveNodes(r.Context(), r.acct.Name, r.pool(), cond, nodes, timeout, option(in.NodeDeallocationOption)); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusAccepted)
}

// poolWritten answers a write with the pool's new version and its warnings. The
// write is done: a pool that cannot be read any more changes nothing about that.
func (e *Edge) poolWritten(w http.ResponseWriter, r *request, status int) error {
	if p, err := e.Pools.Get(r.Context(), r.acct.Name, r.pool()); err == nil {
		versionHeaders(w, p)
		warn(w, p.Warnings)
	}
	target(w, r, "pools", string(r.pool()))
	return empty(w, status)
}

func (e *Edge) listNodeCounts(w http.ResponseWriter, r *request) error {
	// Up to 2022-10 a page held 10 pools (batch-data-plane.md §1.2).
	most := maxPage
	if r.before("2023-01-01") {
		most = 10
	}
	return listOf(e, w, r, e.lists.counts, most, func(q millpond.ListQuery[millpond.PoolNodeCounts]) ([]millpond.PoolNodeCounts, string, error) {
		return e.Pools.NodeCounts(r.Context(), r.acct.Name, q)
	}, func(c millpond.PoolNodeCounts) entity {
		return entity{model: azbatch.PoolNodeCounts{PoolID: ptr(string(c.Pool)), Dedicated: nodeCounts(c.Dedicated), LowPriority: nodeCounts(c.LowPriority)}}
	})
}

func nodeCounts(c millpond.NodeCounts) *azbatch.NodeCounts {
	total := 0
	for _, n := range c {
		total += n
	}
	of := func(s millpond.NodeState) *int32 { return count(c[s]) }
	return &azbatch.NodeCounts{
		Creating: of(millpond.NodeCreating), Starting: of(millpond.NodeStarting), WaitingForStartTask: of(millpond.NodeWaitingForStartTask),
		StartTaskFailed: of(millpond.NodeStartTaskFailed), Idle: of(millpond.NodeIdle), Running: of(millpond.NodeRunning), Offline: of(millpond.NodeOffline),
		Rebooting: of(millpond.NodeRebooting), Reimaging: of(millpond.NodeReimaging), LeavingPool: of(millpond.NodeLeavingPool),
		Unusable: of(millpond.NodeUnusable), Unknown: of(millpond.NodeUnknown), Preempted: of(millpond.NodePreempted),
		UpgradingOS: of(millpond.NodeUpgradingOS), Deallocated: of(millpond.NodeDeallocated), Deallocating: of(millpond.NodeDeallocating), Total: count(total),
	}
}

// Decoding. The shapes have checked everything: what remains is to copy.

func targets(dedicated, low *int32, timeout *string) (pool.Targets, error) {
	t := pool.Targets{Dedicated: intPtr(dedicated), LowPriority: intPtr(low)}
	var err error
	t.ResizeTimeout, err = resizeTimeout(timeout)
	return t, err
}

// resizeTimeout is nil when the request leaves it out. The verb checks the
// minimum too; here the answer can repeat what the client wrote.
func resizeTimeout(s *string) (*time.Duration, error) {
	if s == nil {
		return nil, nil
	}
	d, infinite, err := azwire.ParseDuration(*s)
	if err != nil || infinite {
		return nil, invalid("resizeTimeout", *s, "A resize cannot go on without a limit; give a duration such as PT30M.")
	}
	if d < millpond.MinResizeTimeout {
		return nil, invalid("resizeTimeout", *s, "It must be at least 5 minutes (PT5M).")
	}
	return &d, nil
}

func option(o *azbatch.NodeDeallocationOption) millpond.DeallocationOption {
	if o == nil {
		return millpond.DeallocateRequeue
	}
	return millpond.DeallocationOption(*o)
}

func imageReference(in *azbatch.ImageReference) millpond.ImageReference {
	return millpond.ImageReference{ResourceID: text0(in.VirtualMachineImageID), Publisher: text0(in.Publisher), Offer: text0(in.Offer),
		SKU: text0(in.SKU), Version: text0(in.Version), SharedID: text0(in.SharedGalleryImageID), CommunityID: text0(in.CommunityGalleryImageID)}
}

func metadata(in []azbatch.MetadataItem) []millpond.NameValue {
	out := []millpond.NameValue{}
	for _, m := range in {
		if !strings.HasPrefix(text0(m.Name), warningItem) {
			out = append(out, millpond.NameValue{Name: text0(m.Name), Value: text0(m.Value)})
		}
	}
	return out
}

func startTask(in *azbatch.StartTask) *millpond.StartTask {
	if in == nil {
		return nil
	}
	return &millpond.StartTask{CommandLine: text0(in.CommandLine), Environment: environment(in.EnvironmentSettings), ResourceFiles: resourceFiles(in.ResourceFiles),
		User: userIdentity(in.UserIdentity), MaxRetries: number0(in.MaxTaskRetryCount), WaitForSuccess: in.WaitForSuccess != nil && *in.WaitForSuccess, Container: containerSettings(in.ContainerSettings)}
}

func environment(in []azbatch.EnvironmentSetting) []millpond.NameValue {
	var out []millpond.NameValue
	for _, s := range in {
		out = append(out, millpond.NameValue{Name: text0(s.Name), Value: text0(s.Value)})
	}
	return out
}

func resourceFiles(in []azbatch.ResourceFile) []millpond.ResourceFile {
	var out []millpond.ResourceFile
	for _, f := range in {
		out = append(out, millpond.ResourceFile{URL: text0(f.HTTPURL), ContainerURL: text0(f.StorageContainerURL), AutoContainer: text0(f.AutoStorageContainerName),
			BlobPrefix: text0(f.BlobPrefix), FilePath: text0(f.FilePath), FileMode: text0(f.FileMode), Identity: identityID(f.IdentityReference)})
	}
	return out
}

func userIdentity(in *azbatch.UserIdentity) millpond.UserIdentity {
	if in == nil {
		return millpond.UserIdentity{}
	}
	u := millpond.UserIdentity{UserName: text0(in.Username), Given: true}
	if a := in.AutoUser; a != nil {
		u.TaskScope = a.Scope != nil && *a.Scope == azbatch.AutoUserScopeTask
		u.Admin = a.ElevationLevel != nil && *a.ElevationLevel == azbatch.ElevationLevelAdmin
	}
	return u
}

func text0(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number0(n *int32) int {
	if n == nil {
		return 0
	}
	return int(*n)
}

func intPtr(n *int32) *int {
	if n == nil {
		return nil
	}
	return ptr(int(*n))
}

// Encoding.

func (r *request) poolEntity(p millpond.Pool) entity {
	s := p.Spec
	m := azbatch.Pool{
		ID: ptr(string(s.ID)), DisplayName: some(s.DisplayName), URL: ptr(r.address("pools", string(s.ID))), ETag: ptr(azcore.ETag(p.ETag())),
		CreationTime: at(p.Created), LastModified: at(p.LastModified),
		State: ptr(azbatch.PoolState(p.State)), StateTransitionTime: at(p.StateTransition),
		AllocationState: ptr(azbatch.AllocationState(p.Allocation)), AllocationStateTransitionTime: at(p.AllocationTransition),
		VMSize: ptr(s.VMSize), VirtualMachineConfiguration: machineModel(s), ResourceTags: tagsModel(s.ResourceTags), UpgradePolicy: upgradeModel(s.Upgrade), MountConfiguration: mountsModel(s.Mounts), ResizeTimeout: ptr(azwire.FormatDuration(p.ResizeTimeout)),
		CurrentDedicatedNodes: count(p.CurrentDedicated), CurrentLowPriorityNodes: count(p.CurrentLowPriority),
		TargetDedicatedNodes: count(p.TargetDedicated), TargetLowPriorityNodes: count(p.TargetLowPriority),
		EnableAutoScale: ptr(p.AutoScale != nil), EnableInterNodeCommunication: ptr(s.InterNode), TaskSlotsPerNode: count(s.TaskSlotsPerNode),
		TaskSchedulingPolicy: &azbatch.TaskSchedulingPolicy{NodeFillType: ptr(azbatch.NodeFillType(s.FillType))},
		StartTask:            startTaskModel(s.StartTask), Metadata: metadataModel(s.Metadata, p.Warnings), ApplicationPackageReferences: packagesModel(s.Packages), CertificateReferences: certificateRefsModel(s.Certificates),
		CurrentNodeCommunicationMode: ptr(azbatch.NodeCommunicationModeSimplified), Identity: poolIdentity(s.Identities),
	}
	if a := p.AutoScale; a != nil {
		m.AutoScaleFormula, m.AutoScaleEvaluationInterval, m.AutoScaleRun = ptr(a.Formula), intervalText(a.Interval), runModel(a.Run)
	}
	if s.NodeCommunication != "" {
		m.TargetNodeCommunicationMode = ptr(azbatch.NodeCommunicationMode(s.NodeCommunication))
	}
	m.NetworkConfiguration = networkModel(s)
	for _, u := range s.UserAccounts {
		a := azbatch.UserAccount{Name: ptr(u.Name), ElevationLevel: elevation(u.Admin)}
		if u.UID != 0 {
			a.LinuxUserConfiguration = &azbatch.LinuxUserConfiguration{UID: count(u.UID), GID: count(u.GID)}
		}
		m.UserAccounts = append(m.UserAccounts, a)
	}
	if p.Allocation == millpond.AllocationSteady {
		errs := p.ResizeErrors
		if p.Rollout != nil && p.Rollout.Error != nil {
			// There is no other place where clients look.
			errs = append(append([]millpond.ResizeError(nil), errs...), *p.Rollout.Error)
		}
		for _, x := range errs {
			m.ResizeErrors = append(m.ResizeErrors, azbatch.ResizeError{Code: ptr(x.Code), Message: ptr(x.Message), Values: pairs(withTime(x.Values, x.Time))})
		}
	}
	// Clients before 2020-09-01.12.0 read maxTasksPerNode; others ignore it.
	extra := map[string]any{"maxTasksPerNode": s.TaskSlotsPerNode}
	if len(s.Extensions) > 0 {
		if vm, err := machineWhole(s); err == nil {
			extra["virtualMachineConfiguration"] = vm
		}
	}
	if s.OldestJobFirst {
		extra["taskSchedulingPolicy"] = map[string]any{"nodeFillType": s.FillType, "jobDefaultOrder": "creationtime"}
	}
	if len(p.Warnings) > 0 {
		extra["warnings"] = p.Warnings
	}
	if p.Rollout != nil {
		// Azure has no such member.
		extra["rollout"] = rolloutModel(*p.Rollout)
	}
	return entity{m, extra}
}

// spared is a pool's entity with what there is of its spares. Azure has no such
// member.
func (e *Edge) spared(r *request, p millpond.Pool) entity {
	x := r.poolEntity(p)
	if s, ok := e.Nodes.SparesOf(r.Context(), p.Account, p.Spec.ID); ok {
		m := map[string]any{"wanted": s.Wanted, "ready": s.Ready, "memoryMiB": s.MemoryMiB}
		if s.Reason != "" {
			m["reason"] = s.Reason
		}
		x.extra["spares"] = m
	}
	return x
}

func withTime(values []millpond.NameValue, t time.Time) []millpond.NameValue {
	if t.IsZero() {
		return values
	}
	return append(append([]millpond.NameValue(nil), values...), millpond.NameValue{Name: "Time", Value: azwire.ISO(t)})
}

func pairs(in []millpond.NameValue) []azbatch.NameValuePair {
	var out []azbatch.NameValuePair
	for _, v := range in {
		out = append(out, azbatch.NameValuePair{Name: ptr(v.Name), Value: ptr(v.Value)})
	}
	return out
}

func metadataModel(in []millpond.NameValue, warnings []millpond.Warning) []azbatch.MetadataItem {
	var out []azbatch.MetadataItem
	for _, v := range in {
		out = append(out, azbatch.MetadataItem{Name: ptr(v.Name), Value: ptr(v.Value)})
	}
	for i, x := range warnings {
		name := warningItem
		if i > 0 {
			// Clients make a map of the items.
			name += ":" + strconv.Itoa(i+1)
		}
		out = append(out, azbatch.MetadataItem{Name: ptr(name), Value: ptr(x.Code + ": " + x.Message)})
	}
	return out
}

func imageModel(i millpond.ImageReference) *azbatch.ImageReference {
	if i.ResourceID != "" {
		return &azbatch.ImageReference{VirtualMachineImageID: ptr(i.ResourceID)}
	}
	if i.SharedID != "" || i.CommunityID != "" {
		return &azbatch.ImageReference{SharedGalleryImageID: some(i.SharedID), CommunityGalleryImageID: some(i.CommunityID)}
	}
	version := i.Version
	if version == "" {
		version = "latest"
	}
	return &azbatch.ImageReference{Publisher: some(i.Publisher), Offer: some(i.Offer), SKU: some(i.SKU), Version: ptr(version)}
}

func startTaskModel(t *millpond.StartTask) *azbatch.StartTask {
	if t == nil {
		return nil
	}
	return &azbatch.StartTask{CommandLine: ptr(t.CommandLine), EnvironmentSettings: environmentModel(t.Environment), ResourceFiles: filesModel(t.ResourceFiles),
		UserIdentity: identityModel(t.User), MaxTaskRetryCount: count(t.MaxRetries), WaitForSuccess: ptr(t.WaitForSuccess), ContainerSettings: containerModel(t.Container)}
}

func environmentModel(in []millpond.NameValue) []azbatch.EnvironmentSetting {
	var out []azbatch.EnvironmentSetting
	for _, v := range in {
		out = append(out, azbatch.EnvironmentSetting{Name: ptr(v.Name), Value: ptr(v.Value)})
	}
	return out
}

func filesModel(in []millpond.ResourceFile) []azbatch.ResourceFile {
	var out []azbatch.ResourceFile
	for _, f := range in {
		out = append(out, azbatch.ResourceFile{HTTPURL: some(f.URL), StorageContainerURL: some(f.ContainerURL), AutoStorageContainerName: some(f.AutoContainer),
			BlobPrefix: some(f.BlobPrefix), FilePath: some(f.FilePath), FileMode: some(f.FileMode), IdentityReference: identityReference(f.Identity)})
	}
	return out
}

// identityModel always names a user: the default is the pool's own, without rights.
func identityModel(u millpond.UserIdentity) *azbatch.UserIdentity {
	if u.UserName != "" {
		return &azbatch.UserIdentity{Username: ptr(u.UserName)}
	}
	scope := azbatch.AutoUserScopePool
	if u.TaskScope {
		scope = azbatch.AutoUserScopeTask
	}
	return &azbatch.UserIdentity{AutoUser: &azbatch.AutoUserSpecification{Scope: &scope, ElevationLevel: elevation(u.Admin)}}
}

func elevation(admin bool) *azbatch.ElevationLevel {
	if admin {
		return ptr(azbatch.ElevationLevelAdmin)
	}
	return ptr(azbatch.ElevationLevelNonAdmin)
}

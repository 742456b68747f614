//go:build e2e

// Package golang uses the Azure SDK for Go against the service's own address,
// with endpoint options and no proxy, as docs/guide/clients.md tells.
package golang

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"millpond.dev/millpond/test/lab"
)

// TestSDK makes disk, snapshot, image, gallery, version, account, pool, job and
// tasks with the SDK's own types.
func TestSDK(t *testing.T) {
	s := lab.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cred, core := signIn(t, s)
	options := &arm.ClientOptions{ClientOptions: core}
	const group, region = "golang", "westus2"
	s.Put("/subscriptions/"+s.Creds.SubscriptionID+"/resourceGroups/"+group, map[string]any{"location": region})

	accounts, err := armbatch.NewAccountClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	accountPoller, err := accounts.BeginCreate(ctx, group, "goaccount", armbatch.AccountCreateParameters{Location: to.Ptr(region)}, nil)
	must(t, err)
	account, err := accountPoller.PollUntilDone(ctx, nil)
	must(t, err)
	if account.Properties == nil || account.Properties.AccountEndpoint == nil {
		t.Fatalf("the account has no endpoint: %+v", account)
	}

	vhd := s.TinyVHD("ubuntu-16.04")
	st, err := os.Stat(vhd)
	must(t, err)
	disks, err := armcompute.NewDisksClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	diskPoller, err := disks.BeginCreateOrUpdate(ctx, group, "osdisk", armcompute.Disk{Location: to.Ptr(region), Properties: &armcompute.DiskProperties{
		OSType: to.Ptr(armcompute.OperatingSystemTypesLinux), HyperVGeneration: to.Ptr(armcompute.HyperVGenerationV1),
		CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionUpload), UploadSizeBytes: to.Ptr(st.Size())}}}, nil)
	must(t, err)
	disk, err := diskPoller.PollUntilDone(ctx, nil)
	must(t, err)
	grant, err := disks.BeginGrantAccess(ctx, group, "osdisk", armcompute.GrantAccessData{Access: to.Ptr(armcompute.AccessLevelWrite), DurationInSeconds: to.Ptr[int32](3600)}, nil)
	must(t, err)
	access, err := grant.PollUntilDone(ctx, nil)
	must(t, err)
	if r := s.RunBin("image", "upload", "--data", s.Data, vhd, *access.AccessSAS); r.Code != 0 {
		t.Fatalf("upload: %s%s", r.Stdout, r.Stderr)
	}
	revoke, err := disks.BeginRevokeAccess(ctx, group, "osdisk", nil)
	must(t, err)
	_, err = revoke.PollUntilDone(ctx, nil)
	must(t, err)

	snapshots, err := armcompute.NewSnapshotsClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	snapPoller, err := snapshots.BeginCreateOrUpdate(ctx, group, "snap", armcompute.Snapshot{Location: to.Ptr(region), Properties: &armcompute.SnapshotProperties{
		CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: disk.ID}}}, nil)
	must(t, err)
	snap, err := snapPoller.PollUntilDone(ctx, nil)
	must(t, err)

	images, err := armcompute.NewImagesClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	imagePoller, err := images.BeginCreateOrUpdate(ctx, group, "image", armcompute.Image{Location: to.Ptr(region), Properties: &armcompute.ImageProperties{
		HyperVGeneration: to.Ptr(armcompute.HyperVGenerationTypesV1),
		StorageProfile: &armcompute.ImageStorageProfile{OSDisk: &armcompute.ImageOSDisk{OSType: to.Ptr(armcompute.OperatingSystemTypesLinux),
			OSState: to.Ptr(armcompute.OperatingSystemStateTypesGeneralized), Snapshot: &armcompute.SubResource{ID: snap.ID}}}}}, nil)
	must(t, err)
	image, err := imagePoller.PollUntilDone(ctx, nil)
	must(t, err)

	galleries, err := armcompute.NewGalleriesClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	galleryPoller, err := galleries.BeginCreateOrUpdate(ctx, group, "gallery", armcompute.Gallery{Location: to.Ptr(region)}, nil)
	must(t, err)
	_, err = galleryPoller.PollUntilDone(ctx, nil)
	must(t, err)
	definitions, err := armcompute.NewGalleryImagesClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	defPoller, err := definitions.BeginCreateOrUpdate(ctx, group, "gallery", "tiny", armcompute.GalleryImage{Location: to.Ptr(region), Properties: &armcompute.GalleryImageProperties{
		OSType: to.Ptr(armcompute.OperatingSystemTypesLinux), OSState: to.Ptr(armcompute.OperatingSystemStateTypesGeneralized), HyperVGeneration: to.Ptr(armcompute.HyperVGenerationV1),
		Identifier: &armcompute.GalleryImageIdentifier{Publisher: to.Ptr("lab"), Offer: to.Ptr("tiny"), SKU: to.Ptr("1")}}}, nil)
	must(t, err)
	definition, err := defPoller.PollUntilDone(ctx, nil)
	must(t, err)
	versions, err := armcompute.NewGalleryImageVersionsClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	versionPoller, err := versions.BeginCreateOrUpdate(ctx, group, "gallery", "tiny", "1.0.0", armcompute.GalleryImageVersion{Location: to.Ptr(region),
		Properties: &armcompute.GalleryImageVersionProperties{
			PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{TargetRegions: []*armcompute.TargetRegion{{Name: to.Ptr(region), RegionalReplicaCount: to.Ptr[int32](2)}}},
			StorageProfile:    &armcompute.GalleryImageVersionStorageProfile{Source: &armcompute.GalleryArtifactVersionFullSource{ID: image.ID}}}}, nil)
	must(t, err)
	version, err := versionPoller.PollUntilDone(ctx, nil)
	must(t, err)
	if version.Properties.PublishingProfile.PublishedDate == nil {
		t.Error("the version has no publishedDate")
	}

	batch, err := azbatch.NewClient("https://"+*account.Properties.AccountEndpoint, cred, &azbatch.ClientOptions{ClientOptions: core})
	must(t, err)
	// The definition's id without a version means the latest.
	_, err = batch.CreatePool(ctx, azbatch.CreatePoolContent{ID: to.Ptr("gopool"), VMSize: to.Ptr("Standard_D2_v3"), TargetDedicatedNodes: to.Ptr[int32](1), TaskSlotsPerNode: to.Ptr[int32](2),
		VirtualMachineConfiguration: &azbatch.VirtualMachineConfiguration{NodeAgentSKUID: to.Ptr("batch.node.ubuntu 16.04"),
			ImageReference: &azbatch.ImageReference{VirtualMachineImageID: definition.ID}}}, nil)
	must(t, err)
	wait(t, ctx, "an idle node", func() (bool, string, error) {
		pager := batch.NewListNodesPager("gopool", nil)
		page, err := pager.NextPage(ctx)
		if err != nil || len(page.Value) == 0 {
			return false, "no node", err
		}
		n := page.Value[0]
		if *n.State == azbatch.NodeStateIdle && n.VirtualMachineInfo.ImageReference.ExactVersion != nil && *n.VirtualMachineInfo.ImageReference.ExactVersion != "1.0.0" {
			return false, "", fmt.Errorf("the exact version is %s", *n.VirtualMachineInfo.ImageReference.ExactVersion)
		}
		return *n.State == azbatch.NodeStateIdle, string(*n.State), nil
	})
	_, err = batch.CreateJob(ctx, azbatch.CreateJobContent{ID: to.Ptr("gojob"), PoolInfo: &azbatch.PoolInfo{PoolID: to.Ptr("gopool")}}, nil)
	must(t, err)
	tasks := azbatch.TaskGroup{}
	for i := range 100 {
		tasks.Value = append(tasks.Value, azbatch.CreateTaskContent{ID: to.Ptr(fmt.Sprintf("t%03d", i)), CommandLine: to.Ptr(fmt.Sprintf("/bin/sh -c 'echo %d'", i))})
	}
	added, err := batch.CreateTaskCollection(ctx, "gojob", tasks, nil)
	must(t, err)
	for _, r := range added.Value {
		if *r.Status != azbatch.TaskAddStatusSuccess {
			t.Fatalf("task %s: %s %v", *r.TaskID, *r.Status, r.Error)
		}
	}
	wait(t, ctx, "100 completed tasks", func() (bool, string, error) {
		n := 0
		pager := batch.NewListTasksPager("gojob", &azbatch.ListTasksOptions{Filter: to.Ptr("state eq 'completed'"), SelectParam: []string{"id", "state"}, MaxResults: to.Ptr[int32](30)})
		for pager.More() {
			page, err := pager.NextPage(ctx)
			if err != nil {
				return false, "", err
			}
			n += len(page.Value)
		}
		return n == 100, fmt.Sprintf("%d completed", n), nil
	})
	counts, err := batch.GetJobTaskCounts(ctx, "gojob", nil)
	must(t, err)
	if *counts.TaskCounts.Succeeded != 100 {
		t.Errorf("counts: %+v", *counts.TaskCounts)
	}
	file, err := batch.GetTaskFile(ctx, "gojob", "t042", "stdout.txt", nil)
	must(t, err)
	text, err := io.ReadAll(file.Body)
	must(t, err)
	if string(text) != "42\n" {
		t.Errorf("t042 printed %q", text)
	}
	_, err = batch.DeletePool(ctx, "gopool", nil)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, ctx context.Context, what string, cond func() (bool, string, error)) {
	t.Helper()
	lab.Wait(t, 5*time.Minute, what, func() (bool, string) {
		ok, last, err := cond()
		must(t, err)
		return ok, last
	})
}

//go:build e2e

package golang

import (
	"context"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"

	"millpond.dev/millpond/test/lab"
)

// TestCertificatesByResourceManager: the management SDK adds a certificate and a
// pool that refers to it, cannot delete it while the pool does, and can afterwards.
func TestCertificatesByResourceManager(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cred, core := signIn(t, s)
	const group, region, name = "golang", "westus2", "certaccount"
	s.Put("/subscriptions/"+s.Creds.SubscriptionID+"/resourceGroups/"+group, map[string]any{"location": region})
	s.Put("/subscriptions/"+s.Creds.SubscriptionID+"/resourceGroups/"+group+"/providers/Microsoft.Batch/batchAccounts/"+name, map[string]any{"location": region})
	options := &arm.ClientOptions{ClientOptions: core}
	certs, err := armbatch.NewCertificateClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	pools, err := armbatch.NewPoolClient(s.Creds.SubscriptionID, cred, options)
	must(t, err)
	refused := func(err error, code string) {
		t.Helper()
		var e *azcore.ResponseError
		if !errors.As(err, &e) || e.ErrorCode != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	pfx, print := lab.Certificate(t, "geheim")
	id := "SHA1-" + print
	in := armbatch.CertificateCreateOrUpdateParameters{Properties: &armbatch.CertificateCreateOrUpdateProperties{Data: to.Ptr(base64.StdEncoding.EncodeToString(pfx)), Password: to.Ptr("geheimer"), Format: to.Ptr(armbatch.CertificateFormatPfx)}}
	_, err = certs.Create(ctx, group, name, id, in, nil)
	refused(err, "InvalidPropertyValue")
	in.Properties.Password = to.Ptr("geheim")
	for range 2 {
		made, err := certs.Create(ctx, group, name, id, in, nil)
		must(t, err)
		if *made.Properties.Thumbprint != print || *made.Properties.ProvisioningState != armbatch.CertificateProvisioningStateSucceeded || *made.Properties.Format != armbatch.CertificateFormatPfx || *made.Properties.PublicData == "" {
			t.Errorf("%+v", made.Properties)
		}
	}
	have, err := certs.Get(ctx, group, name, id, nil)
	must(t, err)
	_, err = certs.Create(ctx, group, name, id, armbatch.CertificateCreateOrUpdateParameters{Properties: &armbatch.CertificateCreateOrUpdateProperties{Data: have.Properties.PublicData, Format: to.Ptr(armbatch.CertificateFormatCer)}}, nil)
	refused(err, "CertificateExists")
	page, err := certs.NewListByBatchAccountPager(group, name, nil).NextPage(ctx)
	must(t, err)
	if len(page.Value) != 1 || *page.Value[0].Name != "sha1-"+print {
		t.Errorf("%+v", page.Value)
	}
	pool := armbatch.Pool{Properties: &armbatch.PoolProperties{VMSize: to.Ptr("STANDARD_D1_V2"), ScaleSettings: &armbatch.ScaleSettings{FixedScale: &armbatch.FixedScaleSettings{TargetDedicatedNodes: to.Ptr[int32](0)}},
		Certificates: []*armbatch.CertificateReference{{ID: page.Value[0].ID, StoreLocation: to.Ptr(armbatch.CertificateStoreLocationLocalMachine), StoreName: to.Ptr("Root"), Visibility: []*armbatch.CertificateVisibility{to.Ptr(armbatch.CertificateVisibilityStartTask)}}},
		DeploymentConfiguration: &armbatch.DeploymentConfiguration{VirtualMachineConfiguration: &armbatch.VirtualMachineConfiguration{NodeAgentSKUID: to.Ptr("batch.node.debian 12"),
			ImageReference: &armbatch.ImageReference{Publisher: to.Ptr("debian"), Offer: to.Ptr("debian-12"), SKU: to.Ptr("12")}}}}}
	made, err := pools.Create(ctx, group, name, "p", pool, nil)
	must(t, err)
	if r := made.Properties.Certificates; len(r) != 1 || *r[0].ID != *page.Value[0].ID || *r[0].StoreLocation != armbatch.CertificateStoreLocationLocalMachine || *r[0].Visibility[0] != armbatch.CertificateVisibilityStartTask {
		t.Errorf("%+v", r)
	}
	poller, err := certs.BeginDelete(ctx, group, name, id, nil)
	if err == nil {
		_, err = poller.PollUntilDone(ctx, nil)
	}
	refused(err, "PoolsReferencingCertificate")
	got, err := certs.Get(ctx, group, name, id, nil)
	must(t, err)
	if *got.Properties.ProvisioningState != armbatch.CertificateProvisioningStateFailed || *got.Properties.DeleteCertificateError.Details[0].Message != "p" {
		t.Errorf("%+v", got.Properties)
	}
	must2(certs.CancelDeletion(ctx, group, name, id, nil))(t)
	must2(pools.Update(ctx, group, name, "p", armbatch.Pool{Properties: &armbatch.PoolProperties{Certificates: []*armbatch.CertificateReference{}}}, nil))(t)
	poller, err = certs.BeginDelete(ctx, group, name, id, nil)
	must(t, err)
	_, err = poller.PollUntilDone(ctx, nil)
	must(t, err)
	_, err = certs.Get(ctx, group, name, id, nil)
	refused(err, "CertificateNotFound")
}

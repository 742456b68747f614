package suites

import "strings"

// reason says why a suite's test does not pass: what it wants, and why it
// cannot have it here. Variants of one test, such as name[sync], share it.
func reason(suite, test string) string {
	name, _, _ := strings.Cut(test, "[")
	return known()[suite][name]
}

// known is the reasons, by suite and test.
func known() map[string]map[string]string {
	const (
		blobfuse     = "The pool mounts a blob container, which is refused."
		extensions   = "The pool has the extension KeyVaultForLinux, a program of Azure's own catalogue, which fails on its nodes with the reason; Azure's own node agent, which the test looks for among the extensions, is none of the machine here."
		cloudService = "Cloud services, which the pool is made of, left Azure in 2024."
	)
	const (
		resizing  = "Stops a resize that it began with the command before; here it is over before az has started again."
		vault     = "Begins with a key vault, which is not served."
		order     = "Wants the last of the images that az has aliases for to have `lts` in its SKU; here it is Ubuntu 24.04's, which is `server` as in Azure."
		unmanaged = "Unmanaged disks, blobs in the user's storage account, are refused."
		edgeZone  = "Edge zones are not served."
		offers    = "Looks for images in the Marketplace that this server does not offer."
		edge      = "VM applications in galleries are not served."
	)
	return map[string]map[string]string{
		"azure-cli-batch": {
			"BatchDataPlaneScenarioTests.test_batch_file_download_cmd":         "Wants a task to have printed something. Nodes that are acted out print nothing.",
			"BatchDataPlaneScenarioTests.test_batch_jobs_and_tasks":            "Sends a duration of 3 years and 6 months, of which this az's library leaves out years and months, and wants all of it back.",
			"BatchDataPlaneScenarioTests.test_batch_pool_cmd":                  resizing,
			"BatchDataPlaneScenarioTests.test_batch_pools_and_nodes":           resizing + " It goes on to want the usage metrics of pools to be refused as retired; they are served here.",
			"BatchMgmtScenarioTests.test_batch_general_arm_cmd":                "Wants the addresses of Azure that nodes call, a package repository and a key vault among them; nodes here call none.",
			"BatchMgmtApplicationScenarioTests.test_batch_privateendpoint_cmd": "Begins with a private endpoint, which is not served.",
			"BatchMgmtByosScenarioTests.test_batch_byos_account_cmd":           vault,
		},
		"azure-cli-vm": {
			"VMImageListByAliasesScenarioTest.test_vm_image_list_by_alias":                            order,
			"VMImageListByAliasesScenarioTest.test_vm_image_list_by_alias_and_filtered_by_arch":       order,
			"VMGalleryApplication.test_gallery_application":                                           edge,
			"VMGalleryApplication.test_gallery_application_version":                                   edge,
			"DiskHibernationScenarioTest.test_disk_data_access_auth_mode":                             "A signed URL alone gives access to a disk; asking for a token beside it is refused.",
			"TestSnapShotAccess.test_snapshot_access":                                                 "Exports a snapshot as VHDX, which is refused; disks are exported as VHD.",
			"TestSnapShotAccess.test_snapshot_create_with_source_blob_uri":                            unmanaged,
			"VMCreateFromUnmanagedDiskTest.test_vm_create_from_unmanaged_disk":                        unmanaged,
			"VMUnmanagedDataDiskTest.test_vm_data_unmanaged_disk":                                     unmanaged,
			"VMUnmanagedDataDiskTest.test_vm_data_unmanaged_disk_debian":                              unmanaged,
			"VMCreateWithSpecializedUnmanagedDiskTest.test_vm_create_with_specialized_unmanaged_disk": unmanaged,
			"VMDiskLogicalSectorSize.test_vm_disk_logical_sector_size":                                "Sectors of 4096 bytes are refused.",
			"VMGalleryImage.test_gallery_soft_delete":                                                 "Soft delete of galleries is refused.",
			"VMImageListOffersScenarioTest.test_vm_image_list_offers_edge_zone":                       edgeZone,
			"VMImageListPublishersScenarioTest.test_vm_image_list_publishers_edge_zone":               edgeZone,
			"VMImageListSkusScenarioTest.test_vm_image_list_skus_edge_zone":                           edgeZone,
			"VMImageListThruServiceScenarioTest.test_vm_image_list_thru_services_edge_zone_by_arch":   edgeZone,
			"VMImageListThruServiceScenarioTest.test_vm_images_list_thru_services_edge_zone":          edgeZone,
			"VMImageShowScenarioTest.test_vm_image_show_edge_zone":                                    edgeZone,
			"VMImageListThruServiceScenarioTest.test_vm_image_list_thru_services_deprecation_status":  offers,
			"VMImageListThruServiceScenarioTest.test_vm_image_list_thru_services_filtered_by_arch":    offers,
			"VMImageShowScenarioTest.test_vm_image_show":                                              offers,
			"VMManagedDiskScenarioTest.test_vm_disk_max_shares_etc":                                   offers,
			"VMManagedDiskScenarioTest.test_vm_snapshot_copy_start_detection":                         "Wants a copy to another region to fail with one certain error; it fails with another.",
		},
		"javascript-batch": {
			"pools: should create a pool with confidential VM": "The pool's machines are confidential, which hosts here have no processors for.",
		},
		"go-armbatch": {
			"TestBatchManagementTestSuite":                               "The suite fails with its tests.",
			"TestBatchManagementTestSuite/TestPool":                      cloudService,
			"TestBatchManagementTestSuite/TestPrivateEndpointConnection": "Begins with a private endpoint, which is not served.",
		},
		"go-armcompute": {
			"TestGalleryTestSuite":                                                        edge,
			"TestGalleryTestSuite/TestGalleryApplications":                                edge,
			"TestVirtualMachineExtensionImageTestSuite":                                   "The suite fails with its test.",
			"TestVirtualMachineExtensionImageTestSuite/TestVirtualMachineExtensionImages": "Wants the extension of Windows for scripts; the one of Linux is there.",
		},
		"python-azure-batch-15": {
			"TestBatch.test_batch_create_pool_with_blobfuse_mount":        blobfuse,
			"TestBatch.test_batch_create_pool_with_osdisksecurityprofile": "The OS disk has a security profile of confidential machines, which the hosts here are not.",
			"TestBatch.test_batch_create_pool_with_osdiskdiskencryption":  "Needs a key vault and a disk encryption set of Azure; the suite itself reads their names from the environment.",
			"TestBatch.test_batch_network_configuration":                  "The pool asks for public addresses by IP family, IPv6 among them, which is refused: there is no network of IPv6.",
			"TestBatch.test_batch_compute_node_extensions":                extensions,
		},
		"python-azure-batch-14": {
			"TestBatch.test_batch_applications":                    cloudService,
			"TestBatch.test_batch_create_pool_with_blobfuse_mount": blobfuse,
			"TestBatch.test_batch_update_pools":                    cloudService,
			"TestBatch.test_batch_compute_nodes":                   "Wants a node that is not of cloud services to refuse being reimaged, which Azure does no longer.",
			"TestBatch.test_batch_tasks":                           cloudService,
			"TestBatch.test_batch_jobs":                            cloudService,
		},
		"python-samples": {
			"sample4_job_scheduler.py":                   "Its pool is of Windows, which the Marketplace here has no image of.",
			"article_samples/mpi/linux_mpi_task_demo.py": "Cannot run anywhere: it is for azure-storage-blob 1, and the helpers that it shares with the other samples are for 12.",
		},
	}
}

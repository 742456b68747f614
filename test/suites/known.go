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
		certificates = "Adding a certificate is refused: certificates left the service in 2025."
		inbound      = "The pool has inbound endpoints, which are not supported yet."
		packages     = "Application packages cannot be uploaded yet."
		containers   = "A task has container settings, which are not supported yet."
		subnet       = "The pool is put into a subnet, which is refused as `UnsupportedProperty`; the test wants `InvalidPropertyValue` for a subnet that is not there. Further pools of the test have disk encryption, extensions and trusted launch, which a host without a cloud has not."
		blobfuse     = "The pool mounts a blob container, which is refused."
		extensions   = "VM extensions are programs of Azure's own catalogue and are refused."
		cloudService = "Cloud services, which the pool is made of, left Azure in 2024."
		windows      = "Accelerated networking is a feature of Azure's network cards and is refused."
	)
	return map[string]map[string]string{
		"go-azbatch": {
			"TestCertificates": certificates,
			"TestNode":         inbound,
		},
		"python-azure-batch-15": {
			"TestBatch.test_batch_create_pools":                           subnet,
			"TestBatch.test_batch_create_pool_with_blobfuse_mount":        blobfuse,
			"TestBatch.test_batch_create_pool_with_osdisksecurityprofile": "The OS disk has a security profile of confidential machines, which the hosts here are not.",
			"TestBatch.test_batch_create_pool_with_osdiskdiskencryption":  "Needs a key vault and a disk encryption set of Azure; the suite itself reads their names from the environment.",
			"TestBatch.test_batch_scale_pools":                            inbound,
			"TestBatch.test_batch_network_configuration":                  inbound,
			"TestBatch.test_batch_compute_nodes":                          inbound,
			"TestBatch.test_batch_compute_node_extensions":                extensions,
			"TestBatch.test_batch_compute_node_user":                      inbound,
			"TestBatch.test_batch_compute_node_remote_desktop":            inbound,
			"TestBatch.test_batch_files":                                  packages,
			"TestBatch.test_batch_tasks":                                  containers,
		},
		"python-azure-batch-14": {
			"TestBatch.test_batch_applications":                                packages,
			"TestBatch.test_batch_certificates":                                certificates,
			"TestBatch.test_batch_create_pools":                                subnet,
			"TestBatch.test_batch_create_pool_with_blobfuse_mount":             blobfuse,
			"TestBatch.test_batch_update_pools":                                cloudService,
			"TestBatch.test_batch_network_configuration":                       inbound,
			"TestBatch.test_batch_network_configuration_acceleratednetworking": windows,
			"TestBatch.test_batch_compute_nodes":                               "Uploading the node's logs to blob storage is not supported yet.",
			"TestBatch.test_batch_compute_node_user":                           "User accounts of a single node are not supported yet.",
			"TestBatch.test_batch_files":                                       packages,
			"TestBatch.test_batch_tasks":                                       cloudService,
			"TestBatch.test_batch_jobs":                                        cloudService,
		},
		"python-samples": {
			"sample2_pools_and_resourcefiles.py": "The start task runs `python`, which nodes that are acted out have not.",
			"sample3_encrypted_resourcefiles.py": "Runs the program `blobxfer` on the client and adds a certificate, which is refused.",
			"sample4_job_scheduler.py":           "Installs Python on Windows nodes from python.org.",
		},
	}
}

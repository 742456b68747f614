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
		logs         = "Has a node's logs uploaded to a container that is not there, and wants no error."
		subnet       = "Pools of the test have disk encryption, extensions and trusted launch, which a host without a cloud has not."
		blobfuse     = "The pool mounts a blob container, which is refused."
		extensions   = "The pool has an extension of Azure's own catalogue, which is refused; the custom script is the one that runs here."
		cloudService = "Cloud services, which the pool is made of, left Azure in 2024."
		windows      = "Accelerated networking is a feature of Azure's network cards and is refused."
	)
	return map[string]map[string]string{
		"go-azbatch": {
			"TestNode": "Has the node's logs uploaded to `http://localhost`, and wants no error.",
		},
		"python-azure-batch-15": {
			"TestBatch.test_batch_create_pools":                           subnet,
			"TestBatch.test_batch_create_pool_with_blobfuse_mount":        blobfuse,
			"TestBatch.test_batch_create_pool_with_osdisksecurityprofile": "The OS disk has a security profile of confidential machines, which the hosts here are not.",
			"TestBatch.test_batch_create_pool_with_osdiskdiskencryption":  "Needs a key vault and a disk encryption set of Azure; the suite itself reads their names from the environment.",
			"TestBatch.test_batch_network_configuration":                  "The pool asks for public addresses by IP family, which is refused: nodes have no public addresses.",
			"TestBatch.test_batch_compute_nodes":                          logs,
			"TestBatch.test_batch_compute_node_extensions":                extensions,
			"TestBatch.test_batch_tasks":                                  "Adds tasks to a job that ends with its first failed task, and counts on none having run. Nodes that are acted out are there at once.",
		},
		"python-azure-batch-14": {
			"TestBatch.test_batch_applications":                                cloudService,
			"TestBatch.test_batch_create_pools":                                subnet,
			"TestBatch.test_batch_create_pool_with_blobfuse_mount":             blobfuse,
			"TestBatch.test_batch_update_pools":                                cloudService,
			"TestBatch.test_batch_network_configuration_acceleratednetworking": windows,
			"TestBatch.test_batch_compute_nodes":                               logs,
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

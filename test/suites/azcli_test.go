//go:build e2e && suites

package suites

import (
	"os"
	"path/filepath"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// azVersion is the release whose tests the clone in MILLPOND_SUITES is at.
const azVersion = "2.69.0"

// TestAzureCLI runs the scenario tests that az has of itself, in live mode and
// inside az of the same version: those of its Batch module, and those of its
// compute module about galleries, images, disks, snapshots and machines. Package
// indexes have az without its tests: MILLPOND_SUITES names a folder with a clone,
// azure-cli.
func TestAzureCLI(t *testing.T) {
	root := filepath.Join(os.Getenv("MILLPOND_SUITES"), "azure-cli")
	source := filepath.Join(root, "src", "azure-cli", "azure", "cli", "command_modules")
	if _, err := os.Stat(source); err != nil || os.Getenv("MILLPOND_SUITES") == "" {
		t.Skip("MILLPOND_SUITES names no folder with a clone of azure-cli")
	}
	// azure-batch is the one that this az was released with; later ones have other names.
	python := venv(t, "azure-cli-"+azVersion, "azure-cli=="+azVersion, "azure-batch==15.0.0b1", "pytest", "pytest-timeout", "vcrpy", "ConfigArgParse", "setuptools")
	modules, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(python)), "lib", "python3*", "site-packages", "azure", "cli", "command_modules"))
	if len(modules) != 1 {
		t.Fatalf("az is not below %s", python)
	}
	for _, m := range []struct {
		suite, title, module string
		files                []string
		pick                 string
	}{
		{"azure-cli-batch", "az, module batch", "batch", []string{"test_batch_commands.py", "test_batch_data_plane_commands.py", "test_batch_exception_handler.py", "test_batch_mgmt_commands.py", "test_batch_transformers.py"}, ""},
		{"azure-cli-vm", "az, module vm", "vm", []string{"test_vm_commands.py", "test_vm_actions.py", "test_vm_defaults.py", "test_vm_image.py", "test_vm_parameters.py", "test_custom_vm_commands.py", "test_template_builder.py"}, azVM},
	} {
		t.Run(m.module, func(t *testing.T) {
			a := serve(t, "--launcher", "fake", "--blob-service", lab.Azurite(t))
			a.furnish(t, "ubuntu-18.04", "debian-10", "ubuntu-22.04")
			tests := filepath.Join(modules[0], m.module, "tests")
			if err := os.RemoveAll(tests); err != nil {
				t.Fatal(err)
			}
			// The tests import each other by the names that they have inside az.
			if err := os.CopyFS(tests, os.DirFS(filepath.Join(source, m.module, "tests"))); err != nil {
				t.Fatal(err)
			}
			report(t, pytest(t, a, python, filepath.Join(tests, "latest"), Result{Suite: m.suite, Title: m.title, Version: azVersion + ", " + revision(root), On: "fake"},
				pytestRun{path: filepath.Join(root, "src", "azure-cli-testsdk"), env: []string{"AZURE_TEST_RUN_LIVE=true", "AZURE_CORE_COLLECT_TELEMETRY=no"}, files: m.files, args: []string{"-k", m.pick}}))
		})
	}
}

// azVM picks the tests of disks, snapshots, images and galleries that make no
// machine, those without a server, and of those that make machines the ones that
// ask for nothing that is refused. Most others name images that the Marketplace
// here has not, such as CentOS 7.5, or unmanaged disks.
const azVM = "DiskRPTestScenario or TestSnapShotAccess or DiskBursting or DiskAccess or DiskHibernation or LogicalSector or snapshot_incremental or snapshot_copy_start" +
	" or managed_disk or max_shares or frequent_attach or ultra_ssd_disk_update or standard_zrs_sku or ImageListByAliases or ImageListThruService or ImageListOffers or ImageListPublishers" +
	" or ImageListSkus or ImageShow or VMSizeList or VMUsage or community_gallery_operations or gallery_soft_delete or update_gallery_permissions or gallery_specialized or replicated_location_deletion" +
	" or GalleryApplication or TestActions or Validat or Defaults or template or test_vm_parameters or test_custom_vm" + azMachines

// azMachines picks those that make machines: the fake launcher acts them out.
const azMachines = " or test_run_command_v2 or test_vm_run_command_with_parameters or test_vm_extension_debian or test_vm_extension_list or test_vm_extension_instance_name or VMAvailSetScenarioTest" +
	" or test_vm_create_no_wait or test_vm_create_count or test_vm_create_special_name or test_vm_create_zones or test_vm_disk_create_zones or test_vm_create_auth or test_vm_accelerated_networking" +
	" or test_vm_create_auto_create_subnet or test_vm_create_none_options"

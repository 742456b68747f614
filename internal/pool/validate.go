package pool

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/extension"
)

// checkSpec refuses what Azure refuses at add, and fills in defaults. Limits
// are those of batch-data-plane.md §2.1 and §9.
func (s *Service) checkSpec(p *millpond.PoolSpec) (millpond.VMSize, error) {
	var size millpond.VMSize
	if !millpond.ValidBatchID(string(p.ID)) {
		return size, millpond.InvalidProperty("id", string(p.ID), "An id has 1 to 64 letters, digits, hyphens and underscores.")
	}
	if err := millpond.CheckDisplayName(p.DisplayName); err != nil {
		return size, err
	}
	if p.VMSize == "" {
		return size, millpond.MissingProperty("vmSize")
	}
	size, ok := s.Sizes(p.VMSize)
	if !ok {
		return size, millpond.InvalidProperty("vmSize", p.VMSize, "The specified vmSize is not available. The supported sizes are listed by: az batch location list-skus --location REGION.")
	}
	if p.NodeAgentSKU == "" {
		return size, millpond.MissingProperty("nodeAgentSKUId")
	}
	if p.TaskSlotsPerNode == 0 {
		p.TaskSlotsPerNode = 1
	}
	if most := min(4*size.VCPUs, millpond.MaxTaskSlots); p.TaskSlotsPerNode < 1 || p.TaskSlotsPerNode > most {
		return size, millpond.InvalidProperty("taskSlotsPerNode", strconv.Itoa(p.TaskSlotsPerNode), fmt.Sprintf("The value must be 1 to %d for %s: 4 for each core, and at most 256.", most, size.Name))
	}
	switch p.FillType {
	case "":
		p.FillType = millpond.FillSpread
	case millpond.FillSpread, millpond.FillPack:
	default:
		return size, millpond.InvalidProperty("nodeFillType", string(p.FillType), "The value must be spread or pack.")
	}
	luns := map[int]bool{}
	for _, d := range p.DataDisks {
		if d.LUN < 0 || d.LUN > 63 || luns[d.LUN] {
			return size, millpond.InvalidProperty("lun", strconv.Itoa(d.LUN), "Each data disk has a lun of its own from 0 to 63.")
		}
		luns[d.LUN] = true
		if d.SizeGB < 1 || d.SizeGB > 32767 {
			return size, millpond.InvalidProperty("diskSizeGB", strconv.Itoa(d.SizeGB), "The size of a data disk is 1 to 32767 GB.")
		}
	}
	names := map[string]bool{}
	for _, u := range p.UserAccounts {
		if u.Name == "" || len(u.Name) > 20 || names[u.Name] {
			return size, millpond.InvalidProperty("userAccounts", u.Name, "Each user account has a name of its own of 1 to 20 characters.")
		}
		names[u.Name] = true
		if u.SSHPrivateKey != "" {
			if _, err := ssh.ParsePrivateKey([]byte(u.SSHPrivateKey)); err != nil {
				return size, millpond.InvalidProperty("sshPrivateKey", "", "The key of the user account "+u.Name+" must be a private key as ssh-keygen writes it, without a passphrase.")
			}
		}
	}
	if _, err := extension.Order(p.Extensions); err != nil {
		return size, extensionProblem(err)
	}
	if err := checkMounts(p.Mounts); err != nil {
		return size, err
	}
	if t := p.StartTask; t != nil && t.Container != nil && p.Containers == nil {
		return size, millpond.InvalidProperty("startTask.containerSettings", t.Container.Image, "The pool has no containerConfiguration, without which nothing runs in a container.")
	}
	if err := checkFileIdentities(p); err != nil {
		return size, err
	}
	for _, m := range p.Metadata {
		if m.Name == "" {
			return size, millpond.Errorf(millpond.Invalid, "EmptyMetadataKey", "A metadata item has no name. Give each item a name.")
		}
	}
	if err := p.CheckCopies(); err != nil {
		return size, err
	}
	return size, checkStartTask(p.StartTask, p.UserAccounts, true)
}

// extensionProblem names what is wrong with an extension.
func extensionProblem(err error) error {
	problem, ok := err.(*extension.Problem)
	if !ok {
		return err
	}
	return millpond.InvalidProperty("virtualMachineConfiguration.extensions"+problem.Property, "", problem.Reason)
}

// checkMounts wants each mount to have a place of its own below the directory of
// mounts.
func checkMounts(mounts []millpond.Mount) error {
	if len(mounts) > millpond.MaxMounts {
		return millpond.InvalidProperty("mountConfiguration", strconv.Itoa(len(mounts)), fmt.Sprintf("A pool has at most %d mounts.", millpond.MaxMounts))
	}
	var taken []string
	for _, m := range mounts {
		at := path.Clean(m.Path)
		if !filepath.IsLocal(m.Path) || at == "." || strings.ContainsAny(m.Path, "\\\x00") {
			return millpond.InvalidProperty("relativeMountPath", m.Path, "The path must be relative to AZ_BATCH_NODE_MOUNTS_DIR and may not leave it.")
		}
		for _, o := range taken {
			if at == o || strings.HasPrefix(at, o+"/") || strings.HasPrefix(o, at+"/") {
				return millpond.InvalidProperty("relativeMountPath", m.Path, "Each mount needs a directory of its own that is not inside another's.")
			}
		}
		taken = append(taken, at)
	}
	return nil
}

// checkStartTask refuses a start task that could not run. users are checked
// only if the pool's accounts are known.
func checkStartTask(t *millpond.StartTask, users []millpond.UserAccount, known bool) error {
	if t == nil {
		return nil
	}
	if t.CommandLine == "" {
		return millpond.MissingProperty("startTask.commandLine")
	}
	if t.MaxRetries < -1 {
		return millpond.InvalidProperty("maxTaskRetryCount", strconv.Itoa(t.MaxRetries), "The value must be -1 for no limit, or not negative.")
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if len(text) > millpond.MaxStartTaskChars {
		return millpond.InvalidProperty("startTask", "", fmt.Sprintf("The start task with its files and environment has %d characters; at most %d are allowed. Put long content into a resource file.", len(text), millpond.MaxStartTaskChars))
	}
	if name := t.User.UserName; known && name != "" {
		for _, u := range users {
			if u.Name == name {
				return nil
			}
		}
		return millpond.InvalidProperty("userIdentity", name, "The pool has no user account of that name. Add it to userAccounts.")
	}
	return nil
}

// checkDisks refuses more data disks than the size takes, and luns that the image's
// own data disks use.
func checkDisks(p millpond.PoolSpec, boot millpond.BootImage, size millpond.VMSize) error {
	luns := map[int]bool{}
	for _, d := range boot.DataDisks {
		luns[d.LUN] = true
	}
	for _, d := range p.DataDisks {
		if luns[d.LUN] {
			return millpond.InvalidProperty("lun", strconv.Itoa(d.LUN), "The image has a data disk of that lun. Take another.")
		}
	}
	if err := p.Security.Check(); err != nil {
		return err
	}
	if n := len(boot.DataDisks) + len(p.DataDisks); n > size.MaxDataDisks {
		return millpond.InvalidProperty("dataDisks", strconv.Itoa(n), fmt.Sprintf("%s takes %d data disks; the image has %d and the pool asks for %d more.", size.Name, size.MaxDataDisks, len(boot.DataDisks), len(p.DataDisks)))
	}
	if boot.HyperV == "V2" && !size.Gen2 || boot.HyperV == "V1" && !size.Gen1 {
		return millpond.InvalidProperty("vmSize", size.Name, "The size cannot boot Hypervisor Generation '"+boot.HyperV+"' of the image. Choose another size or image.")
	}
	return nil
}

// unfit says why no machine of the size can be what the pool asks for; empty when
// one can. Azure takes such a pool, which vendors' tests count on, so this is no part
// of checkDisks (decision 62).
func unfit(p millpond.PoolSpec, boot millpond.BootImage, size millpond.VMSize) string {
	image := (boot.OSDisk.SizeBytes + 1<<30 - 1) >> 30
	if p.OSDisk.SizeGB != 0 && int64(p.OSDisk.SizeGB) < image {
		return fmt.Sprintf("The specified disk size %d GB is smaller than the size of the corresponding disk in the VM image: %d GB. This is not allowed. Please choose equal or greater size or do not specify an explicit size.", p.OSDisk.SizeGB, image)
	}
	if p.OSDisk.Placement != "" {
		has := max(int64(p.OSDisk.SizeGB), image)
		switch {
		case size.CacheGiB == 0:
			return fmt.Sprintf("The Diff Disk Placement of type 'CacheDisk' is not supported for VM size %s. Please use a different VM Sku which supports it, such as Standard_D2s_v3.", size.Name)
		case has > int64(size.CacheGiB):
			return fmt.Sprintf("OS disk of Ephemeral VM with size greater than %d GB is not allowed for VM size %s when the DiffDiskPlacement is CacheDisk. This one has %d GB.", size.CacheGiB, size.Name, has)
		}
	}
	if p.OSDisk.Accelerated {
		return fmt.Sprintf("Write Accelerator is not supported for VM size %s. Make the pool without writeAcceleratorEnabled.", size.Name)
	}
	if p.Security.TrustedLaunch && boot.HyperV == "V1" {
		return "Use of TrustedLaunch setting is not supported for the provided image. Please select Trusted Launch Supported Gen2 OS Image."
	}
	return ""
}

func checkTargets(t Targets) error {
	if t.Dedicated != nil && *t.Dedicated < 0 {
		return millpond.InvalidProperty("targetDedicatedNodes", strconv.Itoa(*t.Dedicated), "The value must not be negative.")
	}
	if t.LowPriority != nil && *t.LowPriority < 0 {
		return millpond.InvalidProperty("targetLowPriorityNodes", strconv.Itoa(*t.LowPriority), "The value must not be negative.")
	}
	if t.ResizeTimeout != nil && *t.ResizeTimeout < millpond.MinResizeTimeout {
		return millpond.InvalidProperty("resizeTimeout", t.ResizeTimeout.String(), "The value must be at least 5 minutes (PT5M).")
	}
	return nil
}

// warn writes the warnings that a pool of this size deserves. They refuse
// nothing.
func (s *Service) warn(p *millpond.Pool) {
	p.Warnings = nil
	now := s.Clock.Now()
	add := func(code, format string, args ...any) {
		w := millpond.Warning{Code: code, Message: fmt.Sprintf(format, args...), Time: now}
		p.Warnings = append(p.Warnings, w)
		s.Log.Warn("pool warning", "account", p.Account, "pool", p.Spec.ID, "code", code, "message", w.Message)
	}
	for _, f := range p.Boot.Findings {
		add("Image"+f.Code, "%s %s %s", f.Seen, f.Why, f.Fix)
	}
	for _, e := range p.Spec.Extensions {
		if !extension.Available(e.Publisher, e.Type) {
			add("ExtensionUnavailable", "%s Every node of the pool will be unusable with the error VMExtensionProvisioningError.", extension.Unavailable(e.Publisher, e.Type))
		}
	}
	nodes, per := p.TargetDedicated+p.TargetLowPriority, s.Config.NodesPerReplica
	if have, need := p.Boot.Replicas, (nodes+per-1)/per; have > 0 && need > have {
		add("ReplicaRatioExceeded", "The pool is to have %d nodes, and its image has %d replica(s) in the region: one replica per %d nodes is advised. Raise the replica count of the image version to %d, or expect slower allocation.", nodes, have, per, need)
	}
	if need := time.Duration(nodes) * s.Config.TimeoutPer1000 / 1000; p.ResizeTimeout < need {
		minutes := (need + time.Minute - 1) / time.Minute
		add("ResizeTimeoutShort", "The pool is to have %d nodes within a resize timeout of %s: at least %s per 1000 nodes are advised. Set resizeTimeout to PT%dM or more.",
			nodes, p.ResizeTimeout, s.Config.TimeoutPer1000, minutes)
	}
}

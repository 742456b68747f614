package node

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

// launch gives a node's machine its credential and has it launched.
func (s *Service) launch(ctx context.Context, id millpond.NodeID) error {
	secret := make([]byte, 32)
	if _, err := s.Random(secret); err != nil {
		return err
	}
	token := base64.RawURLEncoding.EncodeToString(secret)
	var n millpond.Node
	var p millpond.Pool
	var filters launch.Filters
	ok := false
	err := s.edit(ctx, id, func(tx *sqlite.Tx, _ *ledger.Book, row *millpond.Node) (err error) {
		if p, err = tx.Pool(row.Account, row.Pool); err != nil {
			return err
		}
		ok = (row.State == millpond.NodeCreating || row.State == millpond.NodeReimaging || row.State == millpond.NodeUpgradingOS) && row.Pending == ""
		if ok {
			row.TokenHash = launch.HashToken(token)
			if err := tx.NumberNode(row, most(p)); err != nil {
				return err
			}
			row.Endpoints, row.Login = endpoints(p, *row), login(p, *row)
			at, err := s.place(tx, p, row.ID)
			if err != nil {
				return err
			}
			if filters = at.Filters; at.LAN != "" {
				row.Place = &millpond.Place{LAN: at.LAN, Subnet: at.Network, Address: at.Address}
			}
		}
		n = *row
		return nil
	})
	if err != nil || !ok {
		return err
	}
	if n.Generation > 1 {
		s.keepConsole(ctx, n, n.Generation-1)
	}
	spec, err := s.spec(ctx, n, p, token)
	if err == nil {
		spec.Card.Filters = filters
		err = s.Launcher.Launch(ctx, spec)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.Log.Warn("a machine could not be launched", "pool", n.Pool, "node", n.ID, "try", n.LaunchTries+1, "err", err)
		e := launchFault(err, s.Clock.Now())
		return s.launchFailed(ctx, n.ID, n.Generation, e, false)
	}
	s.Log.Info("machine launched", "pool", n.Pool, "node", n.ID, "generation", n.Generation)
	// The machine of the generation before is gone, and its tasks with it. A quick
	// machine's agent may have spoken before this: then its Hello has put those
	// back, and what is on the node now runs on the new machine.
	return s.edit(ctx, id, func(_ *sqlite.Tx, book *ledger.Book, row *millpond.Node) error {
		if row.Generation != n.Generation {
			return nil
		}
		row.NextLaunch = time.Time{}
		if row.BootID != "" {
			return nil
		}
		_, err := book.LoseAll(row.ID)
		return err
	})
}

// spec is everything that the launcher needs.
func (s *Service) spec(ctx context.Context, n millpond.Node, p millpond.Pool, token string) (launch.Spec, error) {
	var none launch.Spec
	acct, err := s.Accounts.Account(ctx, n.Account)
	if err != nil {
		return none, err
	}
	size, ok := s.Sizes(n.VMSize)
	if !ok {
		return none, millpond.Errorf(millpond.Invalid, "UnsupportedVMSize", "The VM size %s is not available any more.", n.VMSize)
	}
	boot, err := s.Images.ChooseReplicas(ctx, acct, n.Boot, n.ID)
	if err != nil {
		return none, err
	}
	spec := launch.Spec{
		Node: n.ID, Generation: n.Generation,
		Labels: map[string]string{"account": string(n.Account), "pool": string(n.Pool)},
		VCPUs:  size.VCPUs, MemoryMiB: size.MemoryMiB, Firmware: launch.BIOS,
		OSDisk:      bootDisk(boot.OSDisk),
		TempDiskMiB: int64(size.TempDiskMiB),
		Channel:     launch.Channel{EndpointFile: s.Config.EndpointFile, CAFile: s.Config.CAFile, Token: token},
		Hostname:    hostname(n.ID),
		Cold:        p.Spec.Cold(),
		Card:        card(p, n),
	}
	hello, err := proto.Marshal(s.greeting(p, n))
	if err != nil {
		return none, err
	}
	spec.Greeting = &launch.Greeting{Hello: hello, Listener: s.Config.Listener}
	if size := int64(p.Spec.OSDisk.SizeGB) << 30; size > spec.OSDisk.SizeBytes {
		spec.OSDisk.SizeBytes = size
	}
	if boot.HyperV == "V2" {
		spec.Firmware = launch.UEFI
	}
	for _, d := range boot.DataDisks {
		spec.DataDisks = append(spec.DataDisks, bootDisk(d))
	}
	for _, d := range p.Spec.DataDisks {
		spec.DataDisks = append(spec.DataDisks, launch.Disk{LUN: d.LUN, SizeBytes: int64(d.SizeGB) << 30})
	}
	encrypt(&spec, p.Spec.Encrypted)
	if p.Spec.Security.AtHost {
		encrypt(&spec, []millpond.DiskTarget{millpond.EncryptOSDisk, millpond.EncryptTemporary})
	}
	spec.SecureBoot, spec.TPM = p.Spec.Security.SecureBoot, p.Spec.Security.TPM
	return spec, nil
}

// encrypt marks the disks that a pool wants encrypted.
func encrypt(spec *launch.Spec, targets []millpond.DiskTarget) {
	for _, target := range targets {
		switch target {
		case millpond.EncryptOSDisk:
			spec.OSDisk.Encrypted = true
		case millpond.EncryptTemporary:
			spec.TempEncrypted = spec.TempDiskMiB > 0
			for i := range spec.DataDisks {
				spec.DataDisks[i].Encrypted = true
			}
		}
	}
}

// bootDisk is a disk of an image in the launcher's words.
func bootDisk(d millpond.BootDisk) launch.Disk {
	disk := launch.Disk{LUN: d.LUN, Backing: d.Backing, SizeBytes: d.SizeBytes}
	if d.Backing != "" {
		return disk
	}
	disk.Content, disk.FullCopy = d.Content, d.FullCopy
	for _, s := range d.Stores {
		disk.Stores = append(disk.Stores, launch.Store{Name: s.Name, URL: s.URL})
	}
	return disk
}

// hostname is a node's name as a host: letters, digits and hyphens.
func hostname(id millpond.NodeID) string {
	return strings.Trim(strings.ReplaceAll(id.Key(), "_", "-"), "-")
}

// launchFailed notes a failed try. After the last one the node stays as it is,
// for the allocator to withdraw, or is unusable if it had a machine before.
func (s *Service) launchFailed(ctx context.Context, id millpond.NodeID, generation int, e millpond.NodeError, next bool) error {
	s.Wakes.Allocator.Wake()
	err := s.edit(ctx, id, func(tx *sqlite.Tx, book *ledger.Book, n *millpond.Node) error {
		if n.Generation != generation {
			return nil
		}
		if next {
			// The launcher keeps what failed under this generation.
			n.NextGeneration()
		}
		n.LaunchTries++
		n.Errors = append(n.Errors, e)
		n.Errors = n.Errors[max(0, len(n.Errors)-s.Config.LaunchTries):]
		n.NextLaunch = tx.Now.Add(backoff(n.LaunchTries))
		if n.LaunchTries < s.Config.LaunchTries {
			return nil
		}
		n.LaunchFailed = true
		if n.Allocated.IsZero() {
			return nil
		}
		return s.fail(tx, book, n, e)
	})
	s.Wakes.Allocator.Wake()
	return err
}

// backoff is the wait before the next try: 1 s, 2 s, 4 s … up to a minute.
func backoff(tries int) time.Duration {
	return min(time.Minute, time.Second<<min(max(tries-1, 0), 6))
}

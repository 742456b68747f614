package millpond

import "testing"

func TestLockForbids(t *testing.T) {
	const sub, rg, disk = "/subscriptions/s", "/subscriptions/s/resourceGroups/g", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d"
	for _, c := range []struct {
		at            string
		level         LockLevel
		scope         string
		write, delete bool
	}{
		{rg, LockDelete, rg, false, true}, {rg, LockDelete, disk, false, true}, {rg, LockDelete, sub, false, true},
		{rg, LockWrite, rg, true, true}, {rg, LockWrite, disk, true, true}, {rg, LockWrite, sub, false, true},
		{disk, LockDelete, rg, false, true}, {disk, LockDelete, disk, false, true}, {disk, LockWrite, disk + "2", false, false},
		{disk, LockWrite, "/SUBSCRIPTIONS/S/resourcegroups/G/providers/microsoft.compute/disks/D", true, true},
		{sub, LockWrite, disk, true, true}, {rg, LockWrite, rg + "2", false, false},
	} {
		l := Lock{Scope: c.at, Level: c.level}
		if l.Forbids(c.scope, false) != c.write || l.Forbids(c.scope, true) != c.delete {
			t.Errorf("%s at %s against %s: write %v, delete %v", c.level, c.at, c.scope, l.Forbids(c.scope, false), l.Forbids(c.scope, true))
		}
	}
}

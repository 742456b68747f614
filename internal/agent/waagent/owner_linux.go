package waagent

import (
	"os"
	"syscall"
)

// keepOwner gives a new file the owner of the one that it replaces; only root
// can, and for others both are their own.
func keepOwner(path string, old os.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, int(st.Uid), int(st.Gid))
}

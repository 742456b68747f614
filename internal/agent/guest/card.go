package guest

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hardwareRequest is struct ifreq with a hardware address, which x/sys has no
// accessor for.
type hardwareRequest struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	data   [14]byte
	_      [8]byte
}

// linkUp brings a card up or takes it down; fd is any socket.
func linkUp(fd int, name string, up bool) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return os.NewSyscallError("SIOCGIFFLAGS", err)
	}
	flags := r.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	r.SetUint16(flags)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r))
}

func setHardwareAddress(fd int, name string, hw net.HardwareAddr) error {
	var r hardwareRequest
	if len(name) >= len(r.name) {
		return fmt.Errorf("%q is too long for a card", name)
	}
	copy(r.name[:], name)
	r.family = unix.ARPHRD_ETHER
	copy(r.data[:], hw)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return os.NewSyscallError("SIOCSIFHWADDR", errno)
	}
	return nil
}

// dropAddress takes the first address of a card away; one without an address is
// no error.
func dropAddress(fd int, name string) {
	r, err := unix.NewIfreq(name)
	if err != nil || r.SetInet4Addr([]byte{0, 0, 0, 0}) != nil {
		return
	}
	_ = unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r)
}

// killPID ends the process that a file named.
func killPID(pid string) error {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || n < 2 {
		return nil
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

package guest

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The random device's requests, from the kernel's linux/random.h.
const (
	rndAddEntropy = 0x40085203 // _IOW('R', 3, int[2])
	rndReseedCRNG = 0x5207     // _IO('R', 7)
)

// addEntropy credits bytes from the host to the kernel's pool and makes the
// generator use them at once. Clones of one template would otherwise draw the
// same numbers.
func addEntropy(b []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info: int entropy_count (bits), int buf_size, __u32 buf[].
	req := make([]byte, 0, 8+len(b))
	req = binary.NativeEndian.AppendUint32(req, uint32(8*len(b)))
	req = binary.NativeEndian.AppendUint32(req, uint32(len(b)))
	req = append(req, b...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&req[0]))); errno != 0 {
		return os.NewSyscallError("RNDADDENTROPY", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return os.NewSyscallError("RNDRESEEDCRNG", errno)
	}
	return nil
}

// Package diskformat opens a file as the disk that it holds, whatever of the
// usual formats it is in: raw, fixed and dynamic VHD, VHDX, qcow2. It goes by
// the file's bytes and never by its name, and trusts none of them. cmd/millpond
// converts with it when a file is uploaded or exported, and compute when it
// imports one.
package diskformat

import (
	"fmt"
	"io"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/qcow2"
	"millpond.dev/millpond/internal/vhd"
	"millpond.dev/millpond/internal/vhdx"
)

// Disk is the disk in a file.
type Disk struct {
	image.Source
	Format vhd.Format
}

// Open finds the format of src and returns the disk in it. A *millpond.Error of
// kind Invalid says what is wrong with a file of a known format. The Source
// knows its holes where its file does.
func Open(src image.Source) (Disk, error) {
	size := src.Size()
	format, err := vhd.Detect(src, size)
	if err != nil {
		return Disk{}, fmt.Errorf("look at the file: %w", err)
	}
	d := Disk{Format: format}
	switch format {
	case vhd.Fixed:
		b := make([]byte, vhd.FooterSize)
		if _, err := src.ReadAt(b, size-vhd.FooterSize); err != nil && err != io.EOF {
			return d, err
		}
		f, ferr := vhd.ParseFooter(b)
		if ferr != nil {
			return d, millpond.Errorf(millpond.Invalid, "InvalidVhd", "The file ends like a VHD, but %v. Copy it again.", ferr)
		}
		if f.CurrentSize != size-vhd.FooterSize {
			return d, millpond.Errorf(millpond.Invalid, "InvalidVhd", "The VHD's footer names a disk of %d bytes, but %d bytes come before it. The file is cut off or has been appended to; copy it again.", f.CurrentSize, size-vhd.FooterSize)
		}
		d.Source = vhd.Payload(src, f)
	case vhd.Dynamic:
		d.Source, err = vhd.OpenDynamic(src, size)
	case vhd.VHDX:
		d.Source, err = vhdx.Open(src, size)
	case vhd.QCOW2:
		d.Source, err = qcow2.Open(src, size)
	case vhd.VMDK:
		err = millpond.Errorf(millpond.Invalid, "InvalidVhd", "The file is a VMDK, which is not read here. Convert it with: qemu-img convert -f vmdk -O qcow2 IN.vmdk OUT.qcow2")
	default:
		if size <= 0 {
			return d, millpond.Errorf(millpond.Invalid, "InvalidVhd", "The file is empty.")
		}
		d.Source = Padded(src, (size+511)/512*512)
	}
	return d, err
}

// Padded is src with zeros behind it up to size; a size that is no larger than
// src's is src.
func Padded(src image.Source, size int64) image.Source {
	if size <= src.Size() {
		return src
	}
	return &padded{src, size}
}

type padded struct {
	src  image.Source
	size int64
}

func (p *padded) Size() int64 { return p.size }

func (p *padded) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 || off >= p.size {
		return 0, io.EOF
	}
	whole := b[:min(int64(len(b)), p.size-off)]
	if inside := p.src.Size() - off; inside > 0 {
		part := whole[:min(int64(len(whole)), inside)]
		if n, err = p.src.ReadAt(part, off); n < len(part) {
			return n, err
		}
	}
	clear(whole[n:])
	if len(whole) < len(b) {
		return len(whole), io.EOF
	}
	return len(whole), nil
}

func (p *padded) NextData(off int64) (start, end int64, err error) {
	if off >= p.src.Size() {
		return p.size, p.size, nil
	}
	s, ok := p.src.(image.Sparse)
	if !ok {
		return off, p.src.Size(), nil
	}
	start, end, err = s.NextData(off)
	if err == nil && start >= p.src.Size() {
		return p.size, p.size, nil
	}
	return start, end, err
}

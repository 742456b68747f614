package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errDone ends a connection as its client has asked.
var errDone = errors.New("the client is done")

// negotiation is the first phase of a connection.
type negotiation struct {
	ctx     context.Context
	r       io.Reader
	w       io.Writer
	exports Exports
	noZero  bool
}

// run talks until the client has chosen an export, whose device the caller
// releases. errDone means that the client wanted nothing more.
func (n *negotiation) run() (Device, func(), error) {
	e := binary.BigEndian
	hello := e.AppendUint64(nil, magicServer)
	hello = e.AppendUint64(hello, magicOption)
	hello = e.AppendUint16(hello, handshakeFixed|handshakeNoZero)
	if _, err := n.w.Write(hello); err != nil {
		return nil, nil, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(n.r, flags[:]); err != nil {
		return nil, nil, err
	}
	f := e.Uint32(flags[:])
	if f&handshakeFixed == 0 || f&^uint32(handshakeFixed|handshakeNoZero) != 0 {
		return nil, nil, fmt.Errorf("the client's flags are %#x; fixed newstyle is needed", f)
	}
	n.noZero = f&handshakeNoZero != 0
	for range maxOptionsAsked {
		dev, release, err := n.option()
		if err != nil || dev != nil {
			return dev, release, err
		}
	}
	return nil, nil, fmt.Errorf("the client sent %d options without choosing an export", maxOptionsAsked)
}

// option answers one option; a device means that transmission begins.
func (n *negotiation) option() (Device, func(), error) {
	e := binary.BigEndian
	var head [16]byte
	if _, err := io.ReadFull(n.r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = errDone
		}
		return nil, nil, err
	}
	if m := e.Uint64(head[:]); m != magicOption {
		return nil, nil, fmt.Errorf("an option begins with %#x", m)
	}
	opt, length := e.Uint32(head[8:]), e.Uint32(head[12:])
	if length > maxOption {
		// Skipped without being kept: the protocol asks for an answer, not for
		// memory.
		if _, err := io.CopyN(io.Discard, n.r, int64(length)); err != nil {
			return nil, nil, err
		}
		if opt == optExportName {
			return nil, nil, fmt.Errorf("a name of %d bytes", length)
		}
		return nil, nil, n.reply(opt, repErrTooBig, []byte("the option is too long"))
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(n.r, data); err != nil {
		return nil, nil, err
	}
	switch opt {
	case optExportName:
		return n.exportName(string(data))
	case optAbort:
		return nil, nil, errors.Join(n.reply(opt, repAck, nil), errDone)
	case optList:
		return nil, nil, n.list(data)
	case optInfo, optGo:
		return n.goOrInfo(opt, data)
	}
	return nil, nil, n.reply(opt, repErrUnsup, []byte("this server does not know the option"))
}

func (n *negotiation) list(data []byte) error {
	if len(data) != 0 {
		return n.reply(optList, repErrInvalid, []byte("LIST takes no data"))
	}
	for _, name := range n.exports.Names() {
		item := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := n.reply(optList, repServer, append(item, name...)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, nil)
}

func (n *negotiation) goOrInfo(opt uint32, data []byte) (Device, func(), error) {
	asked, err := parseExportAsked(data)
	if err != nil {
		return nil, nil, n.reply(opt, repErrInvalid, []byte(err.Error()))
	}
	dev, release, err := n.exports.Open(n.ctx, asked.name)
	if err != nil {
		code, text := refused(err)
		return nil, nil, n.reply(opt, code, []byte(text))
	}
	e := binary.BigEndian
	export := e.AppendUint16(nil, infoExport)
	export = e.AppendUint64(export, uint64(dev.Size()))
	export = e.AppendUint16(export, exportFlags(dev))
	// The block sizes are told to everybody: a client may ignore what it did not
	// ask for, and QEMU splits its requests by them.
	block := e.AppendUint16(nil, infoBlockSize)
	for _, size := range []uint32{minBlock, preferredBlock, maxBlock} {
		block = e.AppendUint32(block, size)
	}
	err = errors.Join(n.reply(opt, repInfo, export), n.reply(opt, repInfo, block), n.reply(opt, repAck, nil))
	if err != nil || opt == optInfo {
		release()
		return nil, nil, err
	}
	return dev, release, nil
}

// exportName is the option of old clients; it has no way to say no but to hang up.
func (n *negotiation) exportName(name string) (Device, func(), error) {
	if len(name) > maxName {
		return nil, nil, fmt.Errorf("a name of %d bytes", len(name))
	}
	dev, release, err := n.exports.Open(n.ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("export %q: %w", name, err)
	}
	answer := binary.BigEndian.AppendUint64(nil, uint64(dev.Size()))
	answer = binary.BigEndian.AppendUint16(answer, exportFlags(dev))
	if !n.noZero {
		answer = append(answer, make([]byte, 124)...)
	}
	if _, err := n.w.Write(answer); err != nil {
		release()
		return nil, nil, err
	}
	return dev, release, nil
}

// refused is how an error of Open is told. Only a text that was written for the
// client goes out.
func refused(err error) (code uint32, text string) {
	var r *refusal
	if !errors.As(err, &r) {
		return repErrPolicy, "the export cannot be opened now; see the server's log"
	}
	if r.policy {
		return repErrPolicy, r.text
	}
	return repErrUnknown, r.text
}

func (n *negotiation) reply(opt, kind uint32, data []byte) error {
	e := binary.BigEndian
	b := e.AppendUint64(nil, magicOptReply)
	b = e.AppendUint32(b, opt)
	b = e.AppendUint32(b, kind)
	b = e.AppendUint32(b, uint32(len(data)))
	_, err := n.w.Write(append(b, data...))
	return err
}

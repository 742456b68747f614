// Package nodeproto carries the node channel: the framing on the virtio-serial
// port between a guest's agent and its supervisor, and the HTTP/2 session that
// runs the Agent service (nodev1) over any one connection.
//
// A virtio-serial port is one endless stream of bytes each way. It has no
// connections: what one side wrote before the other went away is read by the
// next one, and half a frame may be among it. So every stretch of talk is a
// session with a random id. The supervisor (Host) opens one with RESET, the
// agent (Guest) answers RESET-ACK, and both drop what belongs to other
// sessions. One exchange needs no session: a birth, by which a machine that was
// copied becomes one of its own.
//
// The package runs no commands, keeps no state on disk and knows nothing of
// pools or tasks. Its callers are the supervisor (Host), the agent (Guest,
// Serve), and the server's edge nodeapi (NewClient; NewLocalClient for the fake
// launcher's agents, which are in the server's process).
package nodeproto

//go:generate sh -c "cd nodev1 && protoc --go_out=. --go_opt=paths=source_relative --connect-go_out=. --connect-go_opt=paths=source_relative,package_suffix= node.proto"

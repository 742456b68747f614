package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxLine bounds one line from QEMU; the longest answers (query-qmp-schema) are
// some hundred KiB and are not asked for.
const maxLine = 1 << 20

// Client is one connection. It is safe for concurrent use.
type Client struct {
	conn    io.ReadWriteCloser
	onEvent func(Event)
	version Greeting

	writing sync.Mutex

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan Answer
	err     error
	done    chan struct{}
}

// Connect takes QEMU's greeting on conn, which it owns from now on, and enters
// command mode. onEvent, if not nil, is called from the one reading goroutine;
// it must not wait for the client.
func Connect(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, waiting: map[uint64]chan Answer{}, done: make(chan struct{})}
	greeted := make(chan Greeting, 1)
	go c.read(greeted)
	select {
	case c.version = <-greeted:
	case <-c.done:
		return nil, fmt.Errorf("qmp: no greeting: %w", c.Err())
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("qmp: no greeting: %w", ctx.Err())
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version is QEMU's, from its greeting.
func (c *Client) Version() Greeting { return c.version }

// Execute runs a command and decodes its result into out unless that is nil. A
// refusal by QEMU is a *CommandError.
func (c *Client) Execute(ctx context.Context, command string, args, out any) error {
	answer := make(chan Answer, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	c.next++
	id := c.next
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return err
	}
	c.writing.Lock()
	_, err = c.conn.Write(append(line, '\n'))
	c.writing.Unlock()
	if err != nil {
		c.fail(err)
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	var a Answer
	select {
	case a = <-answer:
	case <-c.done:
		// QEMU may have answered and ended at once; then both are ready.
		select {
		case a = <-answer:
		default:
			return fmt.Errorf("qmp: %s: %w", command, c.Err())
		}
	case <-ctx.Done():
		return fmt.Errorf("qmp: %s: %w", command, ctx.Err())
	}
	if a.Err != nil {
		return fmt.Errorf("qmp: %s: %w", command, a.Err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(a.Return, out)
}

func (c *Client) read(greeted chan<- Greeting) {
	s := bufio.NewScanner(c.conn)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for s.Scan() {
		if len(s.Bytes()) == 0 {
			continue
		}
		m, err := Decode(s.Bytes())
		if err != nil {
			c.fail(err)
			return
		}
		switch {
		case m.Greeting != nil:
			select {
			case greeted <- *m.Greeting:
			default:
			}
		case m.Event != nil:
			if c.onEvent != nil {
				c.onEvent(*m.Event)
			}
		case m.Answer != nil:
			c.mu.Lock()
			w := c.waiting[m.Answer.ID]
			delete(c.waiting, m.Answer.ID)
			c.mu.Unlock()
			if w != nil {
				w <- *m.Answer
			}
		}
	}
	err := s.Err()
	if err == nil {
		err = io.EOF
	}
	c.fail(err)
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.conn.Close()
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection has ended, nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection; QEMU goes on.
func (c *Client) Close() error {
	c.fail(errors.New("qmp: closed"))
	return nil
}

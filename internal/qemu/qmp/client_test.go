package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\n"

// serve answers each command with what reply returns.
func serve(t *testing.T, greet string, reply func(cmd string, id uint64) string) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer there.Close()
		if _, err := there.Write([]byte(greet)); err != nil {
			return
		}
		s := bufio.NewScanner(there)
		for s.Scan() {
			var c struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			if json.Unmarshal(s.Bytes(), &c) != nil {
				return
			}
			text := fmt.Sprintf(`{"return": {}, "id": %d}`, c.ID)
			if c.Execute != "qmp_capabilities" {
				text = reply(c.Execute, c.ID)
			}
			if text == "" {
				return
			}
			if _, err := there.Write([]byte(text + "\n")); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { here.Close(); wg.Wait() })
	return here
}

func TestCommandsAnswersEvents(t *testing.T) {
	events := make(chan Event, 4)
	conn := serve(t, greeting, func(cmd string, id uint64) string {
		switch cmd {
		case "query-status":
			return `{"timestamp": {"seconds": 10, "microseconds": 5}, "event": "STOP"}` + "\n" +
				fmt.Sprintf(`{"return": {"status": "running"}, "id": %d}`, id)
		case "stop":
			return fmt.Sprintf(`{"id": %d, "error": {"class": "GenericError", "desc": "no"}}`, id)
		}
		return ""
	})
	c, err := Connect(t.Context(), conn, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version().Major != 7 {
		t.Errorf("version %+v", c.Version())
	}
	var st struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &st); err != nil || st.Status != "running" {
		t.Errorf("status %q, %v", st.Status, err)
	}
	if e := <-events; e.Name != "STOP" || e.Time.Unix() != 10 {
		t.Errorf("event %+v", e)
	}
	var ce *CommandError
	if err := c.Execute(t.Context(), "stop", nil, nil); !errors.As(err, &ce) || ce.Class != "GenericError" {
		t.Errorf("refusal: %v", err)
	}
	if err := c.Execute(t.Context(), "quit", nil, nil); err == nil {
		t.Error("no error although the connection closed")
	}
	<-c.Done()
	if err := c.Execute(t.Context(), "stop", nil, nil); err == nil {
		t.Error("no error after the end")
	}
}

func TestNoGreeting(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, serve(t, "", nil), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := Connect(t.Context(), serve(t, "hello\n", nil), nil); err == nil {
		t.Error("garbage taken for a greeting")
	}
}

func TestConcurrentCommands(t *testing.T) {
	c, err := Connect(t.Context(), serve(t, greeting, func(_ string, id uint64) string {
		return fmt.Sprintf(`{"return": %d, "id": %d}`, id, id)
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.Execute(t.Context(), "x", nil, nil); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"id": 1, "error": {"class": "GenericError", "desc": "no"}}`))
	f.Add([]byte(`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`))
	f.Add([]byte(`{"event": ""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := Decode(line)
		n := 0
		if m.Greeting != nil {
			n++
		}
		if m.Answer != nil {
			n++
		}
		if m.Event != nil {
			n++
		}
		if (err == nil) != (n == 1) {
			t.Errorf("%d messages with error %v", n, err)
		}
	})
}

// QEMU may answer and end in one breath; the answer counts.
func TestAnAnswerBeforeTheEnd(t *testing.T) {
	for range 200 {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			s := bufio.NewScanner(there)
			if _, err := there.Write([]byte(greeting)); err == nil && s.Scan() {
				_, _ = there.Write([]byte(`{"return": {}, "id": 1}` + "\n"))
			}
		}()
		c, err := Connect(t.Context(), here, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
	}
}

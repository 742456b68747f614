// Package qmp speaks QEMU's machine protocol: one JSON object a line, answers
// matched to commands by id, events in between. It knows no VM; vmrun is its
// caller. One client at a time: QEMU greets a second connection only when the
// first has closed.
package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Message is one line from QEMU: exactly one of its fields is set.
type Message struct {
	Greeting *Greeting
	Answer   *Answer
	Event    *Event
}

// Greeting is the first line of a connection.
type Greeting struct {
	Major, Minor, Micro int
	Package             string
}

// Answer is the result of a command.
type Answer struct {
	ID     uint64
	Return json.RawMessage
	// Err is QEMU's refusal.
	Err *CommandError
}

// CommandError is QEMU's refusal of a command.
type CommandError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *CommandError) Error() string { return e.Class + ": " + e.Desc }

// Event is something that happened in QEMU on its own.
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time
}

// wire is the union of all lines.
type wire struct {
	QMP *struct {
		Version struct {
			QEMU struct {
				Major int `json:"major"`
				Minor int `json:"minor"`
				Micro int `json:"micro"`
			} `json:"qemu"`
			Package string `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *CommandError   `json:"error"`
	ID        *uint64         `json:"id"`
	Event     *string         `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

var errShape = errors.New("qmp: the line is neither greeting, answer nor event")

// Decode reads one line.
func Decode(line []byte) (Message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return Message{}, fmt.Errorf("qmp: %w", err)
	}
	switch {
	case w.QMP != nil:
		v := w.QMP.Version
		return Message{Greeting: &Greeting{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package}}, nil
	case w.Event != nil && *w.Event != "":
		at := time.Unix(w.Timestamp.Seconds, w.Timestamp.Microseconds*1000).UTC()
		return Message{Event: &Event{Name: *w.Event, Data: w.Data, Time: at}}, nil
	case w.Return != nil || w.Error != nil:
		a := &Answer{Return: w.Return, Err: w.Error}
		if w.ID != nil {
			a.ID = *w.ID
		}
		return Message{Answer: a}, nil
	}
	return Message{}, errShape
}

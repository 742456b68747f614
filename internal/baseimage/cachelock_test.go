package baseimage

import (
	"context"
	"errors"
	"testing"
)

func TestOneBuildAtATime(t *testing.T) {
	dir := t.TempDir()
	nobody := func() { t.Error("waits for nobody") }
	release, err := lockCache(t.Context(), dir, nobody)
	if err != nil {
		t.Fatal(err)
	}

	ended, cancel := context.WithCancel(t.Context())
	if _, err := lockCache(ended, dir, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("a build that is given up while it waits: %v", err)
	}

	// The second has the lock only after the first has let go of it.
	waits, done := make(chan struct{}), make(chan error)
	go func() {
		second, err := lockCache(t.Context(), dir, func() { close(waits) })
		if err == nil {
			second()
		}
		done <- err
	}()
	<-waits
	select {
	case err := <-done:
		t.Fatalf("two builds at once: %v", err)
	default:
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if again, err := lockCache(t.Context(), dir, nobody); err != nil {
		t.Error(err)
	} else {
		again()
	}
}

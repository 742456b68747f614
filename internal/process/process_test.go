package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFindWaitSignal(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	wrong := id
	wrong.Start++
	if _, err := Find(wrong); !errors.Is(err, ErrGone) {
		t.Errorf("another start time: %v", err)
	}
	wrong = id
	wrong.Boot = "another"
	if _, err := Find(wrong); !errors.Is(err, ErrGone) {
		t.Errorf("another boot: %v", err)
	}
	p, err := Find(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait on a running process: %v", err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Errorf("wait after kill: %v", err)
	}
	// Still a zombie here: nobody has waited for the child.
	if _, err := Find(id); !errors.Is(err, ErrGone) {
		t.Errorf("zombie: %v", err)
	}
	cmd.Wait()
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestSelf(t *testing.T) {
	id, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Find(id)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

func TestKill(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	go func() { _ = cmd.Wait() }()
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing, which is no error
		if err := Kill(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Find(id); !errors.Is(err, ErrGone) {
		t.Errorf("after Kill: %v", err)
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f, err := Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(name); !errors.Is(err, ErrLocked) {
		t.Errorf("taken twice: %v", err)
	}
	f.Close()
	again, err := Lock(name)
	if err != nil {
		t.Fatalf("after its holder: %v", err)
	}
	again.Close()
	if _, err := Lock(filepath.Join(name, "below")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a file below a file: %v", err)
	}
}

package proc

import (
	"os"
	"path/filepath"
	"testing"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// A command may ask for an account that must be there: none is made for it.
func TestAccountThatMustExist(t *testing.T) {
	etc := t.TempDir()
	const passwd = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\nbroken:x:one:1::/:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &Runner{users: &accounts{etc: etc}}
	as := func(name string) (account, error) {
		who, _, err := r.account(&nodev1.RunTaskRequest{User: &nodev1.User{Name: name, Existing: true}})
		return who, err
	}
	if who, err := as("ada"); err != nil || who.uid != 1000 || who.gid != 1001 || who.name != "ada" {
		t.Errorf("ada: %+v %v", who, err)
	}
	for name, code := range map[string]string{"eve": "UserNotFound", "broken": "Unknown"} {
		who, err := as(name)
		f, ok := err.(*failure)
		if !ok || f.code != code {
			t.Errorf("%s: %+v %v", name, who, err)
		}
	}
	if now, err := os.ReadFile(filepath.Join(etc, "passwd")); err != nil || string(now) != passwd {
		t.Errorf("passwd changed: %v\n%s", err, now)
	}
}

package seed

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"regexp"
	"strings"
)

// validUser is what useradd takes on every distribution.
var validUser = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// userData is the seed's user-data: our own part and, if there is any, the
// user's, which cloud-init merges.
func userData(in Instance) (string, error) {
	own := "#cloud-config\n"
	if in.BringAgent {
		b, err := guest.ReadFile("guest/user-data")
		if err != nil {
			return "", err
		}
		own = strings.ReplaceAll(string(b), "@AGENT_LABEL@", AgentLabel)
	}
	if in.User == nil {
		return own, nil
	}
	members, err := in.User.members()
	if err != nil {
		return "", err
	}
	own += members
	if len(in.User.CustomData) == 0 {
		return own, nil
	}
	return mixed(own, in.User.CustomData)
}

// members are top-level members of a cloud-config. Each value is JSON, which is
// YAML too, so that nothing that a user wrote can mean anything else.
func (u *User) members() (string, error) {
	var b strings.Builder
	add := func(name string, v any) error {
		j, err := json.Marshal(v)
		fmt.Fprintf(&b, "%s: %s\n", name, j)
		return err
	}
	if u.Admin == "" {
		// A machine whose disk was in use before keeps its name and its users.
		if err := add("preserve_hostname", true); err != nil {
			return "", err
		}
		err := add("users", []any{})
		return b.String(), err
	}
	if !validUser.MatchString(u.Admin) {
		return "", fmt.Errorf("seed: %q is not a user name", u.Admin)
	}
	user := map[string]any{"name": u.Admin, "gecos": "Administrator", "groups": []string{"adm", "sudo"}, "shell": "/bin/bash",
		"sudo": "ALL=(ALL) NOPASSWD:ALL", "lock_passwd": u.PasswordHash == ""}
	if u.PasswordHash != "" {
		user["passwd"] = u.PasswordHash
	}
	if len(u.Keys) > 0 {
		user["ssh_authorized_keys"] = u.Keys
	}
	if err := add("users", []any{user}); err != nil {
		return "", err
	}
	err := add("ssh_pwauth", u.PasswordLogin)
	return b.String(), err
}

// mixed joins our part and the user's as MIME parts. Lists are appended to each
// other: a runcmd of the user's must not replace ours.
func mixed(own string, custom []byte) (string, error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=%q\nMIME-Version: 1.0\n\n", w.Boundary())
	for _, part := range []struct {
		kind string
		data []byte
	}{{"text/cloud-config", []byte(own)}, {customType(custom), custom}} {
		h := textproto.MIMEHeader{"Content-Type": {part.kind}, "Content-Transfer-Encoding": {"base64"}, "MIME-Version": {"1.0"}}
		if part.kind == "text/cloud-config" {
			h.Set("Merge-Type", "list(append)+dict(no_replace,recurse_list)+str()")
		}
		p, err := w.CreatePart(h)
		if err != nil {
			return "", err
		}
		text := base64.StdEncoding.EncodeToString(part.data)
		for len(text) > 0 {
			n := min(76, len(text))
			if _, err := p.Write([]byte(text[:n] + "\n")); err != nil {
				return "", err
			}
			text = text[n:]
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return b.String(), nil
}

// customType tells what custom data is by its first line, as cloud-init does.
func customType(data []byte) string {
	for _, k := range []struct{ begin, kind string }{
		{"#cloud-config", "text/cloud-config"}, {"#!", "text/x-shellscript"}, {"#include", "text/x-include-url"}, {"#cloud-boothook", "text/cloud-boothook"},
		{"## template: jinja", "text/jinja2"}, {"#part-handler", "text/part-handler"}, {"Content-Type: multipart", "multipart/mixed"}, {"MIME-Version", "multipart/mixed"},
	} {
		if bytes.HasPrefix(data, []byte(k.begin)) {
			return k.kind
		}
	}
	// What cloud-init does not understand it keeps as a file and leaves alone.
	return "text/plain"
}

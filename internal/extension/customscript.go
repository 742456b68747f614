// Package extension knows the VM extensions that can run on a machine or node:
// which there are, what their settings must be, and the shell script that does in a
// guest what Azure's agent and the extension do there. It is pure; package machine
// runs such scripts on virtual machines, package node on the nodes of a pool, and
// package pool refuses what could not run.
package extension

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	millpond "millpond.dev/millpond"
)

// Asked is an extension as a user asks for it. Settings and Protected are JSON
// objects, or empty.
type Asked struct {
	Publisher, Type, Version string
	Settings, Protected      []byte
}

// Program is what the guest runs as root, with its variables, some of which may
// hold what is protected. Version differs where a run does something else.
type Program struct {
	Script  string
	Env     []millpond.NameValue
	Version string
	// Always: who asks for it again wants it run again, whatever Version says.
	Always bool
}

// Problem is why an extension cannot run: Property is the wrong member, empty for
// an extension that is not available at all.
type Problem struct{ Property, Reason string }

func (p *Problem) Error() string { return strings.TrimPrefix(p.Property+": "+p.Reason, ": ") }

// Kind is an extension of the catalogue, with the version that runs.
type Kind struct{ Publisher, Type, Version string }

// Kinds lists the extensions that can run here: the custom script for Linux, under
// its name of today and the one before, and users and keys of a machine.
func Kinds() []Kind {
	return []Kind{{"Microsoft.Azure.Extensions", "CustomScript", "2.1.10"}, {"Microsoft.OSTCExtensions", "CustomScriptForLinux", "1.5.5"}, {"Microsoft.OSTCExtensions", accessType, "1.5.21"}}
}

const accessType = "VMAccessForLinux"

// Find finds the kind with those names in any case.
func Find(publisher, kind string) (Kind, bool) {
	for _, k := range Kinds() {
		if strings.EqualFold(k.Publisher, publisher) && strings.EqualFold(k.Type, kind) {
			return k, true
		}
	}
	return Kind{}, false
}

// Available says whether an extension can run here.
func Available(publisher, kind string) bool {
	_, ok := Find(publisher, kind)
	return ok
}

// Unavailable is why an extension that is not Available does not run.
func Unavailable(publisher, kind string) string {
	return fmt.Sprintf("The extension %s.%s is not available here: it is a program of Azure's own catalogue. What runs on a machine is the custom script for Linux, Microsoft.Azure.Extensions.CustomScript, and Microsoft.OSTCExtensions.VMAccessForLinux.", publisher, kind)
}

// checkVersion checks the version that every extension has; the error is a
// *Problem.
func checkVersion(version string) error {
	if version == "" {
		return &Problem{"typeHandlerVersion", "Required parameter 'typeHandlerVersion' is missing (null). Give the extension's version, for example 2.1."}
	}
	if strings.Trim(version, "0123456789.") != "" || len(version) > 32 {
		return &Problem{"typeHandlerVersion", "A version has numbers and dots, for example 2.1."}
	}
	return nil
}

// customScript is the configuration of the custom script extension; the
// protected part is laid over the public one.
type customScript struct {
	CommandToExecute string   `json:"commandToExecute"`
	Script           string   `json:"script"`
	FileURIs         []string `json:"fileUris"`
	// Timestamp has no meaning but to be another one.
	Timestamp json.Number `json:"timestamp"`
}

// Make checks an extension and makes the script that installs it; the error is a
// *Problem.
func Make(a Asked) (Program, error) {
	var none Program
	if !Available(a.Publisher, a.Type) {
		return none, &Problem{"", Unavailable(a.Publisher, a.Type)}
	}
	if err := checkVersion(a.Version); err != nil {
		return none, err
	}
	if strings.EqualFold(a.Type, accessType) {
		return makeAccess(a)
	}
	var c customScript
	for i, part := range [][]byte{a.Settings, a.Protected} {
		if len(part) == 0 {
			continue
		}
		if err := json.Unmarshal(part, &c); err != nil {
			if i == 1 {
				// The reason may repeat what is protected.
				return none, &Problem{"protectedSettings", "The protected settings of the extension are not those of a custom script."}
			}
			return none, &Problem{"settings", fmt.Sprintf("The settings of the extension are not those of a custom script: %s.", misfit(err))}
		}
	}
	if (c.CommandToExecute == "") == (c.Script == "") {
		return none, &Problem{"settings", "A custom script needs either commandToExecute or script in its settings or protected settings."}
	}
	command := c.CommandToExecute
	if c.Script != "" {
		text, err := base64.StdEncoding.DecodeString(c.Script)
		if err != nil {
			return none, &Problem{"settings.script", "The script must be base64 text of a shell script."}
		}
		command = string(text)
	}
	if strings.ContainsRune(command+strings.Join(c.FileURIs, ""), 0) {
		return none, &Problem{"settings", "A command and the addresses of files have no zero bytes."}
	}
	text := handlerScript + downloadScript
	if len(c.FileURIs) > 0 {
		text += fetchScript
	}
	sum := sha256.Sum256([]byte(command + strings.Join(c.FileURIs, "\n") + c.Timestamp.String()))
	p := Program{Version: hex.EncodeToString(sum[:8]), Env: []millpond.NameValue{
		{Name: "MILLPOND_HANDLER", Value: Handler(a.Publisher, a.Type, a.Version)}, {Name: "MILLPOND_COMMAND", Value: command},
		{Name: "MILLPOND_SETTINGS", Value: string(a.Settings)}, {Name: "MILLPOND_FILES", Value: strings.Join(c.FileURIs, "\n")},
	}}
	// The version of the script is what tells one run from another.
	p.Script = text + runScript + "# " + p.Version + "\n"
	return p, nil
}

// Handler is the name of the folder in which Azure's agent keeps an extension.
func Handler(publisher, kind, version string) string {
	for strings.Count(version, ".") < 2 {
		version += ".0"
	}
	return fmt.Sprintf("%s.%s-%s", publisher, kind, version)
}

// handlerScript, downloadScript, fetchScript and runScript do what Azure's agent and the
// extension do: they keep the handler's folder, fetch the files, run the command
// in the download folder and write the status. What they leave is what a
// preflight finds. An agent that may not write to the machine's own folders gives
// another for MILLPOND_WAAGENT.
const handlerScript = `a=${MILLPOND_WAAGENT:-/var/lib/waagent}
h="$a/$MILLPOND_HANDLER"
mkdir -p "$h/config" "$h/status"
printf '%s' "$MILLPOND_SETTINGS" > "$h/config/0.settings"
printf 'Enabled' > "$h/config/HandlerState"
`

// downloadScript goes to the folder of a custom script's files.
const downloadScript = `w="$a/custom-script/download/0"
mkdir -p "$w" && chmod 700 "$a/custom-script" && cd "$w"
`

// fetchScript fetches the files of a custom script; it is put between the two
// others when there are any.
const fetchScript = `printf '%s\n' "$MILLPOND_FILES" | while read -r u; do
  [ -n "$u" ] || continue
  f=$(basename "${u%%\?*}")
  if command -v curl >/dev/null; then curl -fsSL -o "$f" "$u"; else wget -q -O "$f" "$u"; fi || { echo "cannot fetch ${u%%\?*}" >&2; exit 52; }
done || exit 52
`

// runScript runs the command and writes its status.
const runScript = `sh -c "$MILLPOND_COMMAND" > stdout 2> stderr
code=$?
cat stdout
cat stderr >&2
s=success; [ $code -eq 0 ] || s=error
printf '[{"version":1,"status":{"operation":"Enable","status":"%s","code":%d}}]\n' $s $code > "$h/status/0.status"
exit $code
`

// RemoveScript takes the traces of the extension with the folder MILLPOND_HANDLER
// out of the guest.
const RemoveScript = `a=${MILLPOND_WAAGENT:-/var/lib/waagent}
rm -rf "$a/$MILLPOND_HANDLER"
case $MILLPOND_HANDLER in *[cC]ustom[sS]cript*) rm -rf "$a/custom-script" ;; esac
exit 0
`

// misfit says what of settings has the wrong type.
func misfit(err error) string {
	var t *json.UnmarshalTypeError
	switch {
	case !errors.As(err, &t):
		return "they are not valid JSON"
	case t.Field == "":
		return "they must be an object"
	}
	return fmt.Sprintf("the value of '%s' must not be of the type %s", t.Field, t.Value)
}

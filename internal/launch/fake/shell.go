package fake

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// shell acts out the few commands that tests and trials use: true, false,
// sleep N, exit N, set, wait, echo, printf of a plain text, printenv, env, hostname, cat,
// sh -c, bash -c and cmd /c. In a script they are joined by ; && || and line ends, with
// $NAME, quotes, $?, and redirections > >> 2> >&2 of whole commands. It is no
// shell beyond that; what it does not know fails with exit code 127.
type shell struct {
	ctx   context.Context
	disk  *disk
	dir   string // the task's, relative to the node's root
	env   map[string]string
	speed float64
	last  int32
	done  bool // exit was called

	stdout, stderr string // redirections of the current command; paths on disk
}

func (s *shell) knows(program string) bool {
	switch path.Base(program) {
	case "millpond-agent", "waagent", "true", "false", "sleep", "exit", "echo", "printf", "printenv", "env", "hostname", "cat", "sh", "bash", "cmd", "cmd.exe", "set", "wait", ":":
		return true
	}
	return false
}

// command runs a program with arguments and gives its exit code.
func (s *shell) command(words []string) int32 {
	args := words[1:]
	switch path.Base(words[0]) {
	case "set", "wait", ":":
		// Options of the shell and its children, of which there are none.
		return 0
	case "true", "millpond-agent", "waagent":
		// The guest's own commands have nothing to do in a machine without disks.
		return 0
	case "false":
		return 1
	case "sleep":
		return s.sleep(args)
	case "exit":
		s.done = true
		if len(args) == 0 {
			return s.last
		}
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			s.complain("exit: %s: numeric argument required", args[0])
			return 2
		}
		return int32(uint8(n))
	case "echo":
		end := "\n"
		if len(args) > 0 && args[0] == "-n" {
			end, args = "", args[1:]
		}
		s.out(strings.Join(args, " ") + end)
	case "printf":
		s.out(strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(strings.Join(args, " ")))
	case "env":
		return s.printenv(nil)
	case "printenv":
		return s.printenv(args)
	case "hostname":
		s.out(s.env["AZ_BATCH_NODE_ID"] + "\n")
	case "cat":
		return s.cat(args)
	case "sh", "bash":
		return s.script(args)
	case "cmd", "cmd.exe":
		if len(args) < 2 || !strings.EqualFold(args[0], "/c") {
			s.complain("cmd: the fake node runs cmd /c SCRIPT only")
			return 1
		}
		return s.lines(strings.Join(args[1:], " "))
	default:
		s.complain("%s: not found", words[0])
		return 127
	}
	return 0
}

func (s *shell) sleep(args []string) int32 {
	if len(args) == 0 {
		s.complain("sleep: missing operand")
		return 1
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "s"), 64)
	if err != nil || n < 0 {
		s.complain("sleep: invalid time interval '%s'", args[0])
		return 1
	}
	if !wait(s.ctx, time.Duration(n/s.speed*float64(time.Second))) {
		return 143
	}
	return 0
}

func (s *shell) printenv(names []string) int32 {
	if len(names) == 0 {
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(s.env)) {
			b.WriteString(k + "=" + s.env[k] + "\n")
		}
		s.out(b.String())
	}
	var code int32
	for _, n := range names {
		if v, ok := s.env[n]; ok {
			s.out(v + "\n")
		} else {
			code = 1
		}
	}
	return code
}

func (s *shell) cat(names []string) int32 {
	for _, n := range names {
		data, err := s.disk.read(s.locate(n))
		if err != nil {
			s.complain("cat: %s: No such file or directory", n)
			return 1
		}
		s.out(string(data))
	}
	return 0
}

// locate is a program's path relative to the node's root.
func (s *shell) locate(name string) string {
	if rel, ok := strings.CutPrefix(name, rootDir+"/"); ok {
		return path.Clean(rel)
	}
	if path.IsAbs(name) {
		return "no such place"
	}
	return path.Join(s.dir, "wd", name)
}

func (s *shell) script(args []string) int32 {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		option := args[0]
		args = args[1:]
		if strings.HasSuffix(option, "c") {
			if len(args) == 0 {
				break
			}
			return s.lines(args[0])
		}
	}
	s.complain("sh: the fake node runs sh -c SCRIPT only")
	return 127
}

// lines runs a script.
func (s *shell) lines(script string) int32 {
	for _, st := range parse(script) {
		if s.done || s.ctx.Err() != nil {
			break
		}
		if st.when == "&&" && s.last != 0 || st.when == "||" && s.last == 0 {
			continue
		}
		words := s.expand(st.words)
		words = s.redirect(words)
		if len(words) > 0 {
			if name, value, ok := strings.Cut(words[0], "="); ok && len(words) == 1 && !strings.ContainsAny(name, "/ ") {
				s.env[name] = value
				s.last = 0
			} else {
				s.last = s.command(words)
			}
		}
		s.stdout, s.stderr = "", ""
	}
	return s.last
}

// redirect takes the redirections out of a command.
func (s *shell) redirect(words []string) []string {
	var rest []string
	truncate := func(name string) string {
		name = s.locate(name)
		_ = s.disk.write(name, nil, true, 0o644)
		return name
	}
	for i := 0; i < len(words); i++ {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch w := words[i]; {
		case w == ">&2" || w == "1>&2":
			s.stdout = path.Join(s.dir, "stderr.txt")
		case w == "2>&1":
			s.stderr = path.Join(s.dir, "stdout.txt")
		case (w == ">" || w == "1>") && next != "":
			s.stdout = truncate(next)
			i++
		case w == ">>" && next != "":
			s.stdout = s.locate(next)
			i++
		case w == "2>" && next != "":
			s.stderr = truncate(next)
			i++
		default:
			rest = append(rest, w)
		}
	}
	return rest
}

func (s *shell) out(text string) {
	name := s.stdout
	if name == "" {
		name = path.Join(s.dir, "stdout.txt")
	}
	_ = s.disk.write(name, []byte(text), false, 0o644)
}

func (s *shell) complain(format string, args ...any) {
	name := s.stderr
	if name == "" {
		name = path.Join(s.dir, "stderr.txt")
	}
	_ = s.disk.write(name, fmt.Appendf(nil, format+"\n", args...), false, 0o644)
}

// word is a word of a script before expansion: pieces that are literal or not.
type word []piece

type piece struct {
	text    string
	literal bool
}

// statement is a simple command and the operator before it.
type statement struct {
	when  string // "", "&&", "||"
	words []word
}

// parse divides a script into statements. It never fails: what has no end ends
// with the script.
func parse(script string) []statement {
	var list []statement
	var cur statement
	var w word
	in := false
	flushWord := func() {
		if in {
			cur.words = append(cur.words, w)
			w, in = nil, false
		}
	}
	flush := func(when string) {
		flushWord()
		if len(cur.words) > 0 {
			list = append(list, cur)
		}
		cur = statement{when: when}
	}
	add := func(text string, literal bool) { w = append(w, piece{text, literal}); in = true }
	for i := 0; i < len(script); i++ {
		switch c := script[i]; {
		case c == '\'':
			end := strings.IndexByte(script[i+1:], '\'')
			if end < 0 {
				end = len(script) - i - 1
			}
			add(script[i+1:i+1+end], true)
			i += end + 1
		case c == '"':
			var b bytes.Buffer
			add("", true)
			for i++; i < len(script) && script[i] != '"'; i++ {
				if script[i] == '\\' && i+1 < len(script) && strings.IndexByte("\"\\$`", script[i+1]) >= 0 {
					add(b.String(), false)
					b.Reset()
					i++
					add(script[i:i+1], true)
					continue
				}
				b.WriteByte(script[i])
			}
			add(b.String(), false)
		case c == '\\' && i+1 < len(script):
			i++
			add(script[i:i+1], true)
		case c == ';' || c == '\n':
			flush("")
		case strings.HasPrefix(script[i:], "&&"), strings.HasPrefix(script[i:], "||"):
			flush(script[i : i+2])
			i++
		case c == ' ' || c == '\t':
			flushWord()
		case c == '>':
			if in && len(w) == 1 && !w[0].literal && (w[0].text == "1" || w[0].text == "2") {
				c := w[0].text
				w, in = nil, false
				i += redirection(script[i:], c, add, flushWord)
				continue
			}
			flushWord()
			i += redirection(script[i:], "", add, flushWord)
		case c == '#' && !in:
			for i+1 < len(script) && script[i+1] != '\n' {
				i++
			}
		default:
			j := i
			for j < len(script) && strings.IndexByte("'\"\\;\n&| \t>", script[j]) < 0 {
				j++
			}
			if j == i {
				j = i + 1 // a lone & or |
			}
			add(script[i:j], false)
			i = j - 1
		}
	}
	flush("")
	return list
}

// redirection adds the operator at the start of rest as a word and tells how
// many bytes beyond the first it has taken.
func redirection(rest, fd string, add func(string, bool), flushWord func()) int {
	for _, op := range []string{">&2", ">&1", ">>", ">"} {
		if strings.HasPrefix(rest, op) {
			add(fd+op, true)
			flushWord()
			return len(op) - 1
		}
	}
	return 0
}

// expand replaces variables; a word that was nothing but empty ones goes away.
func (s *shell) expand(words []word) []string {
	var list []string
	for _, w := range words {
		var b strings.Builder
		quoted := false
		for _, p := range w {
			if p.literal {
				quoted = true
				b.WriteString(p.text)
			} else {
				b.WriteString(s.variables(p.text))
			}
		}
		if b.Len() > 0 || quoted {
			list = append(list, b.String())
		}
	}
	return list
}

func (s *shell) variables(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		switch {
		case rest[0] == '?':
			b.WriteString(strconv.Itoa(int(s.last)))
			i++
		case rest[0] == '{' && strings.IndexByte(rest, '}') > 0:
			end := strings.IndexByte(rest, '}')
			b.WriteString(s.env[rest[1:end]])
			i += end + 1
		default:
			n := 0
			for n < len(rest) && (rest[n] == '_' || rest[n] >= 'A' && rest[n] <= 'Z' || rest[n] >= 'a' && rest[n] <= 'z' || n > 0 && rest[n] >= '0' && rest[n] <= '9') {
				n++
			}
			if n == 0 {
				b.WriteByte('$')
				continue
			}
			b.WriteString(s.env[rest[:n]])
			i += n
		}
	}
	return b.String()
}

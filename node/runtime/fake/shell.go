package fake

import (
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

type opKind int

const (
	opPrint opKind = iota
	opSleep
	opExit
	opForever
	opCat // copies input to output until the input ends
	opOOM
	opIgnoreTERM
	opTermCode
	opTermSize // prints the terminal's size
	opTerminal // an interactive shell
)

// op is one step of a program.
type op struct {
	kind   opKind
	text   string
	stderr bool
	d      time.Duration
	code   int
}

func (p Program) compile() []op {
	var ops []op
	for _, l := range p.Output {
		ops = append(ops, op{kind: opPrint, text: strings.TrimSuffix(l, "\n") + "\n"})
	}
	if p.After == 0 {
		return append(ops, op{kind: opForever})
	}
	ops = append(ops, op{kind: opSleep, d: p.After})
	if p.OOM {
		return append(ops, op{kind: opOOM})
	}
	return append(ops, op{kind: opExit, code: p.ExitCode})
}

// shell is what a command sees of its container.
type shell struct {
	env               []string
	hostname, workdir string
	mounts            []runtime.Mount
	limited           bool
}

func (c *ctr) shell() shell {
	return shell{env: c.spec.Env, hostname: c.hostname, workdir: c.spec.WorkingDir, mounts: c.spec.Mounts, limited: c.spec.Resources.MemoryBytes > 0}
}

// compile understands `sh -c script`, and the words of a script as commands of their own. What it does not know runs
// for ever.
func (s shell) compile(argv []string) ([]op, error) {
	if len(argv) == 0 {
		return []op{{kind: opForever}}, nil
	}
	if strings.Contains(argv[0], "no-such") {
		why := "executable file not found in $PATH"
		if strings.HasPrefix(argv[0], "/") {
			why = "stat " + argv[0] + ": no such file or directory"
		}
		return nil, mark(runtime.ErrInvalid, `OCI runtime create failed: exec: %q: %s: unknown`, argv[0], why)
	}
	switch path.Base(argv[0]) {
	case "sh", "bash":
		if len(argv) > 2 && argv[1] == "-c" {
			return s.script(argv[2]), nil
		}
		return []op{{kind: opTerminal}}, nil
	}
	return s.command(argv), nil
}

var statement = regexp.MustCompile(`\s*(?:;|\n|&&)\s*`)

// script splits at ; && and newlines. A loop runs for ever; a pipeline does nothing.
func (s shell) script(text string) []op {
	var ops []op
	for _, st := range statement.Split(text, -1) {
		switch {
		case st == "":
		case strings.HasPrefix(st, "while "):
			return append(ops, op{kind: opForever})
		case strings.Contains(st, "|"):
		default:
			ops = append(ops, s.command(strings.Fields(st))...)
		}
	}
	return ops
}

func (s shell) command(argv []string) []op {
	arg := ""
	if len(argv) > 1 {
		arg = argv[1]
	}
	switch path.Base(argv[0]) {
	case "exec":
		if len(argv) > 1 {
			return s.command(argv[1:])
		}
		return nil
	case "true", ":":
		return nil
	case "false":
		return []op{{kind: opExit, code: 1}}
	case "exit":
		code, _ := strconv.Atoi(arg)
		return []op{{kind: opExit, code: code}}
	case "sleep":
		seconds, err := strconv.ParseFloat(arg, 64)
		if err != nil {
			return []op{{kind: opForever}}
		}
		return []op{{kind: opSleep, d: time.Duration(seconds * float64(time.Second))}}
	case "echo":
		return []op{s.echo(argv[1:])}
	case "pwd":
		return []op{print(s.workdir)}
	case "hostname":
		return []op{print(s.hostname)}
	case "trap":
		return s.trap(strings.Join(argv[1:], " "))
	case "stty":
		return []op{{kind: opTermSize}}
	case "tail":
		if arg == "/dev/zero" && s.limited {
			return []op{{kind: opOOM}}
		}
	case "cat":
		if arg == "" {
			return []op{{kind: opCat}}
		}
		return s.catFile(arg)
	}
	return []op{{kind: opForever}}
}

func print(text string) op { return op{kind: opPrint, text: text + "\n"} }

func (s shell) echo(words []string) op {
	o := op{kind: opPrint}
	if n := len(words); n > 0 && words[n-1] == ">&2" {
		o.stderr, words = true, words[:n-1]
	}
	text := os.Expand(strings.Join(words, " "), func(name string) string {
		for _, e := range s.env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	})
	o.text = text + "\n"
	return o
}

var trapExit = regexp.MustCompile(`^'exit (\d+)' TERM$`)

func (s shell) trap(text string) []op {
	if text == "'' TERM" {
		return []op{{kind: opIgnoreTERM}}
	}
	if m := trapExit.FindStringSubmatch(text); m != nil {
		code, _ := strconv.Atoi(m[1])
		return []op{{kind: opTermCode, code: code}}
	}
	return nil
}

// catFile reads mounted files only.
func (s shell) catFile(name string) []op {
	for _, m := range s.mounts {
		rest, ok := strings.CutPrefix(name, m.ContainerPath)
		if !ok {
			continue
		}
		if b, err := os.ReadFile(m.HostPath + rest); err == nil {
			return []op{{kind: opPrint, text: string(b)}}
		}
	}
	return []op{
		{kind: opPrint, text: "cat: can't open '" + name + "': No such file or directory\n", stderr: true},
		{kind: opExit, code: 1},
	}
}

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// state is what a later process needs to find the lab again. It is a help, not
// the truth: Down also looks for what is there.
type state struct {
	Prefix    string             `json:"prefix"`
	Nodes     int                `json:"nodes"`
	Links     int                `json:"links,omitempty"`
	Moved     map[string]int     `json:"moved,omitempty"`  // nodes that have changed their link, and to which
	Images    string             `json:"images,omitempty"` // where the images came from: lab or hub
	Up        bool               `json:"up"`               // the lab came up as a whole
	Processes map[string]process `json:"processes"`        // by name: "registry", "node1", "node1-docker", …
	Joined    map[string]bool    `json:"joined"`           // nodes whose agent has its identity
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.cfg.Dir}, elem...)...)
}

// readState returns the recorded state of the lab in this directory, an empty one
// if there is none. A file cut by a crash counts as none.
func (l *Lab) readState() (state, error) {
	s := state{Processes: map[string]process{}, Joined: map[string]bool{}}
	data, err := os.ReadFile(l.path("state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if json.Unmarshal(data, &s) != nil || s.Processes == nil || s.Joined == nil {
		return state{Processes: map[string]process{}, Joined: map[string]bool{}}, nil
	}
	return s, nil
}

// record changes the state and writes it. It is called from several goroutines.
func (l *Lab) record(change func(*state)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.state)
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return err
	}
	tmp := l.path("state.json.new")
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, l.path("state.json"))
}

func (l *Lab) remember(name string, p process) error {
	return l.record(func(s *state) { s.Processes[name] = p })
}

func (l *Lab) process(name string) process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Processes[name]
}

// claim makes sure that no other lab with this prefix runs from another directory:
// both would use the same namespaces and the engines' data.
func (l *Lab) claim() error {
	owner := filepath.Join(l.cfg.Cache, "engines", l.cfg.Prefix+"owner")
	if err := os.MkdirAll(filepath.Dir(owner), 0o755); err != nil {
		return err
	}
	data, err := os.ReadFile(owner)
	if err == nil {
		other := strings.TrimSpace(string(data))
		if _, err := os.Stat(netnsPath(l.cfg.labName())); err == nil && other != l.cfg.Dir {
			if _, err := os.Stat(filepath.Join(other, "state.json")); err == nil {
				return fmt.Errorf("a lab runs already, from %s: end it there first (make demo-down)", other)
			}
		}
	}
	return os.WriteFile(owner, []byte(l.cfg.Dir+"\n"), 0o644)
}

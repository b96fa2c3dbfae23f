package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"
)

// detachBytes is detachKeys as the engine tells of it.
var detachBytes = []byte{0x1e, 0x1d, 0x1e, 0x1f, 0x1e, 0x1d}

// strays are commands that were found running in containers before we ran any: those of an agent that died, whose
// clients have seen their connections break.
type strays struct {
	mu    sync.Mutex
	ids   []string
	ended bool // the search is over
}

// note the commands of a container. An engine lists those that run.
func (s *strays) note(execs []string) {
	if len(execs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ids = append(s.ids, execs...)
	}
}

func (s *strays) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.ids
	s.ids, s.ended = nil, true
	return out
}

// endStrays kills, after the first list of all containers, the commands that an agent which died has left. What others
// run with `docker exec` stays.
func (d *Engine) endStrays(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(inspectors)
	for _, id := range d.strays.take() {
		g.Go(func() error {
			if ours, err := d.ours(ctx, id); err != nil {
				d.log.Debug("cannot find out whose command this is", "exec", id, "err", err)
			} else if ours {
				d.log.Info("ending a command that an earlier agent left", "exec", id)
				d.killExec(ctx, id)
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return nil
}

// endOnce ends, with the first list, also what exports of an agent that died have left.
func (d *Engine) endOnce(ctx context.Context) {
	d.endStrays(ctx)
	d.exports.Do(func() { d.endExports(ctx) })
}

// ours tells whether a command is of an agent's making. The client's own call leaves out the detach keys.
func (d *Engine) ours(ctx context.Context, execID string) (bool, error) {
	cli := d.cli.Load()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/v"+cli.ClientVersion()+"/exec/"+execID+"/json", nil)
	if err != nil {
		return false, err
	}
	resp, err := cli.HTTPClient().Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the engine answers %s", resp.Status)
	}
	var exec struct {
		Running    bool
		DetachKeys []byte
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&exec); err != nil {
		return false, err
	}
	return exec.Running && bytes.Equal(exec.DetachKeys, detachBytes), nil
}

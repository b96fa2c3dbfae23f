package docker

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/whalepod/whalepod/node/runtime"
)

// Logs implements runtime.Streamer. Timestamps are the engine's, RFC 3339 with nine digits as the kubelet writes them.
// A log that is followed is asked for with timestamps in any case: see frames.
func (d *Engine) Logs(ctx context.Context, id string, o runtime.LogOptions) error {
	cli := d.cli.Load()
	short, cancel := bounded(ctx, readLimit)
	j, err := cli.ContainerInspect(short, id)
	cancel()
	if err != nil {
		return classify(err)
	}
	opts := container.LogsOptions{
		ShowStdout: o.Stdout != nil, ShowStderr: o.Stderr != nil, Follow: o.Follow, Timestamps: o.Timestamps, Tail: "all",
	}
	tty := j.Config != nil && j.Config.Tty
	if tty {
		opts.ShowStdout, opts.ShowStderr = true, true
	}
	framed := !tty && (o.Follow || o.Timestamps)
	opts.Timestamps = opts.Timestamps || framed
	if o.Tail >= 0 {
		opts.Tail = strconv.FormatInt(o.Tail, 10)
	}
	if !o.Since.IsZero() {
		opts.Since = fmt.Sprintf("%d.%09d", o.Since.Unix(), o.Since.Nanosecond())
	}
	body, err := cli.ContainerLogs(ctx, id, opts)
	if err != nil {
		return classify(err)
	}
	defer body.Close()
	switch {
	case tty:
		_, err = io.Copy(orDiscard(o.Stdout), body)
	case framed:
		err = (&frames{stdout: orDiscard(o.Stdout), stderr: orDiscard(o.Stderr), timestamps: o.Timestamps}).copy(body)
	default:
		_, err = stdcopy.StdCopy(orDiscard(o.Stdout), orDiscard(o.Stderr), body)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

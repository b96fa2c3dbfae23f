package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/whalepod/whalepod/node/runtime"
)

// overlap is how far back a stream of events reaches: the engine answers before it subscribes us, and keeps the last
// events for exactly this case. An event told twice does no harm, it only says "read again".
const overlap = time.Second

// Events implements runtime.Runtime; it returns nil when ctx ends.
func (d *Engine) Events(ctx context.Context, ready chan<- struct{}, fn func(runtime.Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ping, done := bounded(ctx, readLimit)
	err := d.renegotiate(ping)
	done()
	if err != nil {
		return err
	}
	f := d.mine("")
	f.Add("type", string(events.ContainerEventType))
	for _, action := range []events.Action{events.ActionStart, events.ActionDie, events.ActionOOM, events.ActionDestroy} {
		f.Add("event", string(action)) // exec_* of probes would come by the hundred
	}
	messages, failed := d.subscribe(ctx, f)
	if ready != nil {
		select {
		case err := <-failed:
			return d.eventsEnded(ctx, err)
		default:
			close(ready)
		}
	}
	for {
		select {
		case m := <-messages:
			d.states.forget(m.Actor.ID)
			fn(runtime.Event{PodUID: m.Actor.Attributes[labelUID], Container: m.Actor.ID, Action: string(m.Action)})
		case err := <-failed:
			return d.eventsEnded(ctx, err)
		}
	}
}

func (d *Engine) subscribe(ctx context.Context, f filters.Args) (<-chan events.Message, <-chan error) {
	since := time.Now().Add(-overlap)
	return d.cli.Load().Events(ctx, events.ListOptions{
		Filters: f, Since: fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()),
	})
}

func (d *Engine) eventsEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the engine ended its stream of events")
	}
	return mark(runtime.ErrUnavailable, fmt.Errorf("events: %w", err))
}

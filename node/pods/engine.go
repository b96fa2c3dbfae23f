package pods

import (
	"context"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	listTimeout  = time.Minute
	engineRetry  = time.Second
	engineRetry2 = 15 * time.Second
)

// listing is all that the engine showed, and how far each worker was when it was asked.
type listing struct {
	pods []runtime.Pod
	seq  map[string]int64
}

// watchEngine lists once each time it is connected to the engine's events, and passes the events to the workers.
func (m *Manager) watchEngine(ctx context.Context, lists chan<- listing) {
	delay := engineRetry
	for ctx.Err() == nil {
		connected := time.Now()
		err := m.watchOnce(ctx, lists)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errNotRead
		}
		m.setEngine(err)
		for _, w := range m.all() {
			w.post(func(in *inbox) { in.away = true })
		}
		if time.Since(connected) > time.Minute {
			delay = engineRetry
		}
		m.log.Warn("container engine connection lost", "err", err, "retry", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		delay = min(2*delay, engineRetry2)
	}
}

// watchOnce subscribes, lists when no event can be missed any more, and stays until the connection breaks.
func (m *Manager) watchOnce(ctx context.Context, lists chan<- listing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- m.cfg.Engine.Events(ctx, ready, m.event)
	}()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	l, err := m.list(ctx)
	if err == nil {
		select {
		case lists <- l:
		case <-ctx.Done():
			return <-ended
		}
		return <-ended
	}
	cancel()
	<-ended
	return err
}

func (m *Manager) list(ctx context.Context) (listing, error) {
	l := listing{seq: map[string]int64{}}
	for _, w := range m.all() {
		l.seq[w.uid] = w.seq.Load()
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var err error
	l.pods, err = m.cfg.Engine.Pods(ctx)
	return l, err
}

// relist looks at everything again.
func (m *Manager) relist(ctx context.Context, lists chan<- listing) {
	l, err := m.list(ctx)
	if err != nil {
		return // the stream of events breaks too, if it is serious
	}
	select {
	case lists <- l:
	case <-ctx.Done():
	}
}

// event only leaves a note; it must not make the engine's stream wait.
func (m *Manager) event(e runtime.Event) {
	if w := m.worker(e.PodUID); w != nil {
		w.post(func(in *inbox) { in.events = append(in.events, e) })
	}
}

package node

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// lateHandler refuses streams until the pods are there to stream from.
type lateHandler struct {
	h atomic.Pointer[func(context.Context, net.Conn)]
}

func newLateHandler() *lateHandler { return &lateHandler{} }

func (l *lateHandler) set(h func(context.Context, net.Conn)) { l.h.Store(&h) }

func (l *lateHandler) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if h := l.h.Load(); h != nil {
		(*h)(ctx, conn)
	}
}

// lateWithdrawn remembers what was told until the pods are there to be told.
type lateWithdrawn struct {
	mu   sync.Mutex
	to   func(podUID string)
	held []string
}

func (l *lateWithdrawn) tell(podUID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == nil {
		l.held = append(l.held, podUID)
		return
	}
	l.to(podUID)
}

func (l *lateWithdrawn) set(to func(podUID string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range l.held {
		to(uid)
	}
	l.to, l.held = to, nil
}

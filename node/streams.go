package node

import (
	"context"
	"net"
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

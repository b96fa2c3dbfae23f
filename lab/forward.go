package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Forward is one port of the loopback address that leads into the lab.
type Forward struct {
	Listen string // on this machine, as in 127.0.0.1:30080
	To     string // in the lab, as in 198.51.100.11:30080
}

// ParseForward reads LISTEN=TO. Only loopback addresses may be listened on: what
// runs in the lab is nobody else's business.
func ParseForward(s string) (Forward, error) {
	listen, to, ok := strings.Cut(s, "=")
	if !ok {
		return Forward{}, fmt.Errorf("%q: want LISTEN=TO", s)
	}
	for _, a := range []string{listen, to} {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return Forward{}, err
		}
		if net.ParseIP(host) == nil {
			return Forward{}, fmt.Errorf("%s: the address must be numeric", a)
		}
		if a == listen && !net.ParseIP(host).IsLoopback() {
			return Forward{}, fmt.Errorf("%s is no loopback address", a)
		}
	}
	return Forward{listen, to}, nil
}

const forwardDial = 10 * time.Second

// RunForwards forwards until ctx ends. dial connects within the lab.
func RunForwards(ctx context.Context, forwards []Forward, dial func(ctx context.Context, network, addr string) (net.Conn, error)) error {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for _, f := range forwards {
		l, err := net.Listen("tcp", f.Listen)
		if err != nil {
			return fmt.Errorf("something else uses %s (%w)", f.Listen, err)
		}
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(forwards))
	var open sync.WaitGroup
	for i, l := range listeners {
		open.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				open.Go(func() { pipe(ctx, conn, forwards[i].To, dial) })
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	for _, l := range listeners {
		l.Close()
	}
	open.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// pipe joins a connection with one to addr, and passes on when either side has
// nothing more to send: a client may close its half and still read.
func pipe(ctx context.Context, in net.Conn, addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	defer in.Close()
	dialCtx, cancel := context.WithTimeout(ctx, forwardDial)
	defer cancel()
	out, err := dial(dialCtx, "tcp", addr)
	if err != nil {
		return // closing tells the client all there is to know
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() {
		in.Close()
		out.Close()
	})
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // an error ends this direction just as an end does
			if half, ok := way[1].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}

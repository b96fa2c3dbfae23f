package diagnose

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// dialFunc opens a socket in some network namespace.
type dialFunc func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

// udpPatience is how long a UDP server, or whoever refuses in its place, may take to say something.
const udpPatience = 700 * time.Millisecond

// try dials a target and says how it went. A TCP connection is closed at once; a UDP server gets one empty datagram.
func try(ctx context.Context, dial dialFunc, t Target) Dialed {
	out := Dialed{Target: t}
	ctx, cancel := context.WithTimeout(ctx, DialWithin)
	defer cancel()
	began := time.Now()
	err := once(ctx, dial, t, &out)
	out.Millis = float64(time.Since(began).Microseconds()) / 1000
	if err != nil {
		out.Result, out.Error = classify(err), err.Error()
	}
	return out
}

func once(ctx context.Context, dial dialFunc, t Target, out *Dialed) error {
	if t.Protocol == "TCP" {
		conn, err := dial(ctx, "tcp", t.Address)
		if err == nil {
			out.Result = Answered
			conn.Close()
		}
		return err
	}
	conn, err := dial(ctx, "udp", t.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(udpPatience))
	if _, err := conn.Write(nil); err != nil {
		return err
	}
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		out.Result = Silent
		return nil
	}
	if err == nil {
		out.Result = Answered
	}
	return err
}

func classify(err error) string {
	var late net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return Unreachable
	case errors.Is(err, syscall.EPERM):
		return Forbidden
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout(), errors.Is(err, syscall.ETIMEDOUT):
		return TimedOut
	}
	return Failed
}

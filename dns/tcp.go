package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// tcpConns, tcpIdle and tcpPipeline bound what clients of TCP may hold: connections, silence, questions that others are
	// asked for at the same time on one connection.
	tcpConns    = 256
	tcpIdle     = 10 * time.Second
	tcpPipeline = 16
)

func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	slots := make(chan struct{}, tcpConns)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("DNS listener %s: %w", l.Addr(), err)
			}
			if !pause(ctx, 50*time.Millisecond) { // out of descriptors, say
				return nil
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		s.pending.Add(1)
		go func() {
			defer s.pending.Done()
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer func() { _ = c.Close() }()
			s.serveConn(ctx, c)
		}()
	}
}

// stream is a client's connection. Answers are written as they come, in any order (RFC 7766, 6.2.1.1).
type stream struct {
	net.Conn
	mu  sync.Mutex
	out []byte // for answers that need nobody else
}

// send an answer, which begins two bytes into out.
func (c *stream) send(out, answer []byte) error {
	binary.BigEndian.PutUint16(out, uint16(len(answer)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(tcpIdle)); err != nil {
		return err
	}
	_, err := c.Write(out[:2+len(answer)])
	return err
}

// serveConn answers until the client is silent.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	c := &stream{Conn: conn, out: make([]byte, 512)}
	msg := make([]byte, 512)
	slots := make(chan struct{}, tcpPipeline)
	var slow sync.WaitGroup
	defer slow.Wait()
	for {
		n, err := c.next(&msg)
		if err != nil {
			return
		}
		var q question
		answer, done := s.quick(&q, msg[:n], c.out[2:], dns.MaxMsgSize, time.Now())
		if !done {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			copied := append([]byte(nil), msg[:n]...)
			slow.Go(func() {
				defer func() { <-slots }()
				s.answerLater(ctx, c, copied)
			})
			continue
		}
		if answer == nil {
			return
		}
		if len(answer) > len(c.out)-2 { // it was too large for the buffer and is somewhere else
			c.out = make([]byte, 2+len(answer))
			copy(c.out[2:], answer)
		}
		if c.send(c.out, answer) != nil {
			return
		}
	}
}

func (s *Server) answerLater(ctx context.Context, c *stream, msg []byte) {
	var q question
	q.parse(msg)
	out := make([]byte, 2+512)
	answer := s.slowly(ctx, &q, out[2:], dns.MaxMsgSize)
	if len(answer) > len(out)-2 {
		out = make([]byte, 2+len(answer))
		copy(out[2:], answer)
	}
	if c.send(out, answer) != nil {
		_ = c.Close()
	}
}

// next reads a question into msg, which grows as far as a question may.
func (c *stream) next(msg *[]byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return 0, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > maxDatagram {
		return 0, errors.New("more than a question")
	}
	if n > len(*msg) {
		*msg = make([]byte, maxDatagram)
	}
	_, err := io.ReadFull(c, (*msg)[:n])
	return n, err
}

package diagnose

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver is a resolv.conf as far as names of a Service need it.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
	NDots   int
}

// ParseResolver reads a resolv.conf(5).
func ParseResolver(text []byte) Resolver {
	r := Resolver{NDots: 1}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(f[1]); err == nil {
				r.Servers = append(r.Servers, ip)
			}
		case "search", "domain":
			r.Search = f[1:]
		case "options":
			for _, o := range f[1:] {
				if n, ok := strings.CutPrefix(o, "ndots:"); ok {
					r.NDots, _ = strconv.Atoi(n)
				}
			}
		}
	}
	return r
}

// Candidates are the full names that a resolver tries for a name, in its order.
func (r Resolver) Candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var searched []string
	for _, s := range r.Search {
		searched = append(searched, name+"."+strings.TrimSuffix(s, ".")+".")
	}
	if strings.Count(name, ".") >= r.NDots {
		return append([]string{name + "."}, searched...)
	}
	return append(searched, name+".")
}

// validName keeps what goes into a question for a name server within its limits.
func validName(name string) bool {
	_, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	return err == nil && name != "" && !strings.ContainsAny(name, " \t\r\n\x00") && !strings.Contains(name, "..") && !strings.HasPrefix(name, ".")
}

// exchange sends one query to a server and returns its answer.
type exchange func(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error)

// ask resolves a name as a program would: the candidates one after the other at the first server that answers.
func ask(ctx context.Context, r Resolver, name string, do exchange) Name {
	out := Name{Asked: name}
	if len(r.Servers) == 0 {
		out.Error = "resolv.conf names no server"
		return out
	}
	for _, full := range r.Candidates(name) {
		if !validName(full) {
			continue
		}
		out = askOne(ctx, r.Servers, name, full, do)
		// A program stops at the first name that is there; and at a server that fails, since another candidate would
		// then be another name.
		if out.RCode != "NXDOMAIN" && (out.RCode != "NOERROR" || len(out.Addresses) > 0 || out.CNAME != "") {
			return out
		}
	}
	return out
}

func askOne(ctx context.Context, servers []netip.Addr, asked, full string, do exchange) Name {
	out := Name{Asked: asked, Full: full}
	for _, server := range servers {
		out.Server, out.Error = server.String(), ""
		query, id, err := question(full)
		if err != nil {
			out.Error = err.Error()
			return out
		}
		within, cancel := context.WithTimeout(ctx, AskWithin)
		reply, err := do(within, netip.AddrPortFrom(server, 53), query)
		cancel()
		if err == nil {
			err = out.read(reply, id)
		}
		if err == nil {
			return out
		}
		out.Error = err.Error()
	}
	return out
}

func question(full string) ([]byte, uint16, error) {
	name, err := dnsmessage.NewName(full)
	if err != nil {
		return nil, 0, err
	}
	id := uint16(rand.Uint32())
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	return query, id, err
}

var rcodes = map[dnsmessage.RCode]string{
	dnsmessage.RCodeSuccess: "NOERROR", dnsmessage.RCodeFormatError: "FORMERR", dnsmessage.RCodeServerFailure: "SERVFAIL",
	dnsmessage.RCodeNameError: "NXDOMAIN", dnsmessage.RCodeNotImplemented: "NOTIMP", dnsmessage.RCodeRefused: "REFUSED",
}

func (n *Name) read(reply []byte, id uint16) error {
	var p dnsmessage.Parser
	h, err := p.Start(reply)
	if err != nil {
		return fmt.Errorf("the answer is not DNS: %w", err)
	}
	if h.ID != id || !h.Response {
		return errors.New("the answer belongs to another question")
	}
	if n.RCode = rcodes[h.RCode]; n.RCode == "" {
		n.RCode = fmt.Sprintf("RCODE%d", h.RCode)
	}
	if err := p.SkipAllQuestions(); err != nil {
		return err
	}
	for {
		r, err := p.Answer()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the answer is damaged: %w", err)
		}
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			n.Addresses = append(n.Addresses, netip.AddrFrom4(b.A))
		case *dnsmessage.CNAMEResource:
			if n.CNAME == "" {
				n.CNAME = b.CNAME.String()
			}
		}
	}
}

// exchangeUDP asks over UDP, and over TCP when the answer did not fit.
func exchangeUDP(dial dialFunc) exchange {
	return func(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
		reply, err := overUDP(ctx, dial, server, query)
		if err != nil || len(reply) < 4 || reply[2]&0x02 == 0 {
			return reply, err
		}
		return overTCP(ctx, dial, server, query)
	}
}

func overUDP(ctx context.Context, dial dialFunc, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	return buf[:n], err
}

func overTCP(ctx context.Context, dial dialFunc, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	d, ok := ctx.Deadline()
	if !ok {
		d = time.Now().Add(AskWithin)
	}
	_ = conn.SetDeadline(d)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(conn, reply)
	return reply, err
}

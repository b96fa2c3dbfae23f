package dns

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

// maxCNAMEs bounds how many aliases are followed for one question.
const maxCNAMEs = 8

// quick answers what needs nobody else: refusals, the cache, the zone. done is false when an upstream must be asked.
// A nil answer with done means silence.
func (s *Server) quick(q *question, msg, out []byte, limit int, now time.Time) (answer []byte, done bool) {
	rcode, ok := q.parse(msg)
	if !ok {
		if rcode == ignore {
			return nil, true
		}
		return refuse(q, out, rcode), true
	}
	if limit == 0 {
		limit = q.size
	}
	snap := s.zone.Snapshot()
	key := q.key[:q.keyLen]
	if p := s.cache.get(key, snap.generation, now); p != nil {
		return p.write(q, out, limit, s.turn.Add(1), now), true
	}
	name := q.name()
	r := snap.Lookup(name, q.qtype)
	if !r.Ours || r.Target != "" {
		return nil, false
	}
	p, err := pack(name, flagAA|flagRA|uint16(r.Rcode), r.Answer, r.Auth, r.Extra)
	if err != nil {
		return refuse(q, out, dns.RcodeServerFailure), true
	}
	p.generation = snap.generation
	s.cache.put(key, p, snap.generation, now)
	return p.write(q, out, limit, s.turn.Add(1), now), true
}

// slow asks upstreams, or follows an ExternalName's target, and keeps the answer.
func (s *Server) slow(ctx context.Context, q *question, out []byte, limit int) []byte {
	if limit == 0 {
		limit = q.size
	}
	name := q.name()
	if s.forward.arrived(name) { // we asked that ourselves
		return refuse(q, out, dns.RcodeServerFailure)
	}
	generation := s.zone.Snapshot().generation
	routes := s.forward.routes.Load()
	m, ours, err := s.resolve(ctx, routes, name, q)
	now := time.Now()
	if err != nil {
		s.log.Debug("no answer", "name", name, "type", dns.TypeToString[q.qtype], "err", err)
		m = &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
	}
	rcode := m.Rcode
	if rcode > 0xf { // about EDNS, between us and a server
		rcode = dns.RcodeServerFailure
	}
	flags := uint16(flagRA) | uint16(rcode)
	if m.AuthenticatedData {
		flags |= flagAD
	}
	if m.Truncated {
		flags |= flagTC
	}
	p, err := pack(name, flags, m.Answer, m.Ns, withoutOPT(m.Extra))
	if err != nil {
		return refuse(q, out, dns.RcodeServerFailure)
	}
	if keep := keepFor(m, q.qtype); keep > 0 && q.flags&flagCD == 0 {
		p.stored, p.expires = now, now.Add(keep)
		if ours {
			p.generation = generation
		}
		s.cache.put(q.key[:q.keyLen], p, generation, now)
		if s.forward.routes.Load() != routes { // others are asked by now, and what those before said may have been forgotten before put
			s.cache.forget(q.key[:q.keyLen])
		}
	}
	return p.write(q, out, limit, s.turn.Add(1), now)
}

// resolve follows aliases that start in the zone; the rest is the upstreams' work. ours: the zone has something to do with it.
func (s *Server) resolve(ctx context.Context, to *routes, name string, q *question) (m *dns.Msg, ours bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := new(dns.Msg)
	for range maxCNAMEs {
		r := s.zone.Snapshot().Lookup(name, q.qtype)
		if !r.Ours {
			up, err := s.forward.ask(ctx, to, name, q.qtype, q.dnssecOK)
			if err != nil {
				return nil, ours, err
			}
			// The message may be shared with other callers: take its records, do not change it.
			out.Rcode, out.Truncated, out.AuthenticatedData = up.Rcode, up.Truncated, up.AuthenticatedData
			out.Answer = append(out.Answer, up.Answer...)
			out.Ns, out.Extra = up.Ns, up.Extra
			return out, ours, nil
		}
		ours = true
		out.Answer = append(out.Answer, r.Answer...)
		if r.Target == "" {
			out.Rcode, out.Ns, out.Extra = r.Rcode, r.Auth, r.Extra
			return out, true, nil
		}
		name = r.Target
	}
	return nil, true, errTooManyAliases
}

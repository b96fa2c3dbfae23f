package netpolicy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	"github.com/whalepod/whalepod/proto/netpolicy"
)

type chunkOfSet struct {
	members  map[member]int // how many pods have it: two do for a moment when an address changes hands
	revision uint64
	encoded  []byte
}

// place puts the pod where it belongs in the set, or takes it out.
func (r *Resolver) place(s *set, pod *corev1.Pod) {
	var members []member
	addr, err := netip.ParseAddr(pod.Status.PodIP)
	if err == nil && addr.Is4() && netpolicy.Concerned(pod) && netpolicy.Matches(s.spec.Pods, pod.Labels) {
		if s.spec.Port == "" {
			members = []member{{addr: addr}}
		} else {
			for _, p := range netpolicy.PortsNamed(pod, s.spec.Port, s.spec.Protocol) {
				members = append(members, member{addr, netpolicy.Protocols[p.Protocol]<<16 | uint32(p.Number)})
			}
		}
	}
	r.move(s, key{pod.Namespace, pod.Name}, members)
}

// move makes these the members that the pod has in the set.
func (r *Resolver) move(s *set, pod key, to []member) {
	had := s.placed[pod]
	if slices.Equal(had, to) {
		return
	}
	for _, m := range to {
		if !slices.Contains(had, m) {
			r.count(s, m, 1)
		}
	}
	for _, m := range had {
		if !slices.Contains(to, m) {
			r.count(s, m, -1)
		}
	}
	if len(to) == 0 {
		delete(s.placed, pod)
	} else {
		s.placed[pod] = to
	}
}

func (r *Resolver) count(s *set, m member, by int) {
	name := chunkName(m.addr)
	c := s.chunks[name]
	if c == nil {
		c = &chunkOfSet{members: map[member]int{}}
		s.chunks[name] = c
	}
	was := c.members[m]
	if now := was + by; now > 0 {
		c.members[m] = now
		if was > 0 {
			return
		}
	} else {
		delete(c.members, m)
	}
	r.revision++
	c.revision, c.encoded = r.revision, nil
	if len(c.members) == 0 {
		delete(s.chunks, name)
	}
	r.changed[Chunk{s.id, name}] = struct{}{}
}

func chunkName(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d", b[0], b[1], b[2])
}

// Changed are the chunks that have changed since the last call.
func (r *Resolver) Changed() map[Chunk]struct{} {
	if len(r.changed) == 0 {
		return nil
	}
	out := r.changed
	r.changed = map[Chunk]struct{}{}
	return out
}

// Chunks of a set.
func (r *Resolver) Chunks(id string) []Chunk {
	s := r.sets[id]
	if s == nil {
		return nil
	}
	out := make([]Chunk, 0, len(s.chunks))
	for name := range s.chunks {
		out = append(out, Chunk{id, name})
	}
	return out
}

// Encoded is a chunk as it travels (agentv1.PolicySet), and its revision; nil when there is none, or nobody in it.
func (r *Resolver) Encoded(c Chunk) ([]byte, uint64) {
	s := r.sets[c.Set]
	if s == nil || s.chunks[c.Name] == nil {
		return nil, 0
	}
	part := s.chunks[c.Name]
	if part.encoded == nil {
		part.encoded = encode(part.members)
	}
	return part.encoded, part.revision
}

func encode(members map[member]int) []byte {
	list := make([]member, 0, len(members))
	for m := range members {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b member) int { return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port)) })
	out := &agentv1.PolicySet{}
	for _, m := range list {
		b := m.addr.As4()
		out.Addresses = append(out.Addresses, binary.BigEndian.Uint32(b[:]))
		if m.port != 0 {
			out.Ports = append(out.Ports, m.port)
		}
	}
	data, _ := proto.Marshal(out) // nothing in it can be wrong
	return data
}

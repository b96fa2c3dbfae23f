// Package ipset keeps the kernel's sets of addresses for proxy/policy, over netlink: a change of one address is one message, and no
// program is run. It knows nothing of policies.
package ipset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/whalepod/whalepod/proxy/policy"
)

const (
	// A set begins small and grows by itself: the kernel's default takes 8 KB for one address.
	hashSize = 64
	// maxElements is far above the pods of one cluster.
	maxElements = 1 << 18
	// batch is how many entries travel in one message.
	batch = 512
	// timeoutSeconds bounds a call; the kernel answers in microseconds.
	timeoutSeconds = 10
	probeName      = policy.SetPrefix + "probe"
)

// Kernel is the sets of one network namespace.
type Kernel struct {
	socket *nl.SocketHandle
}

// Open finds out whether the kernel has what policies need. ns is the namespace to work in; netns.None() is the process's own.
func Open(ns netns.NsHandle) (*Kernel, error) {
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("the kernel's sets: %w", err)
	}
	k := &Kernel{socket: &nl.SocketHandle{Socket: s}}
	limit := &unix.Timeval{Sec: timeoutSeconds}
	err = errors.Join(s.SetSendTimeout(limit), s.SetReceiveTimeout(limit))
	for _, t := range []policy.SetType{policy.Addresses, policy.Ports, policy.Networks} {
		if err == nil {
			err = errors.Join(k.Destroy(probeName), k.Create(probeName, t), k.Destroy(probeName))
		}
	}
	if err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Close gives back the descriptor; the sets stay.
func (k *Kernel) Close() { k.socket.Close() }

// Create makes a set; one that is there already stays as it is.
func (k *Kernel) Create(name string, t policy.SetType) error {
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	data.AddChild(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_HASHSIZE | nl.NLA_F_NET_BYTEORDER, Value: hashSize})
	data.AddChild(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_MAXELEM | nl.NLA_F_NET_BYTEORDER, Value: maxElements})
	var revision uint8
	if t == policy.Ports {
		revision = 1 // from which on it knows SCTP
	}
	_, err := k.do(nl.IPSET_CMD_CREATE,
		text(nl.IPSET_ATTR_SETNAME, name), text(nl.IPSET_ATTR_TYPENAME, string(t)),
		nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nl.Uint8Attr(revision)), nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(unix.AF_INET)), data)
	switch {
	case errors.Is(err, syscall.Errno(nl.IPSET_ERR_FIND_TYPE)):
		module := "ip_set_" + strings.ReplaceAll(strings.ReplaceAll(string(t), ":", "_"), ",", "")
		return fmt.Errorf("this kernel has no sets of the type %s: the module %s is missing", t, module)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("this kernel has no sets: the module ip_set is missing (%w)", err)
	case err != nil:
		return fmt.Errorf("make the set %s: %w", name, describe(err))
	}
	return nil
}

// Destroy removes a set; one that is not there is no error.
func (k *Kernel) Destroy(name string) error {
	_, err := k.do(nl.IPSET_CMD_DESTROY, text(nl.IPSET_ATTR_SETNAME, name))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the set %s: %w", name, describe(err))
	}
	return nil
}

// Add puts entries into a set, whether they are there or not.
func (k *Kernel) Add(name string, t policy.SetType, entries []policy.Entry) error {
	return k.change(nl.IPSET_CMD_ADD, "add to", name, t, entries)
}

// Delete takes entries out, whether they are there or not.
func (k *Kernel) Delete(name string, t policy.SetType, entries []policy.Entry) error {
	return k.change(nl.IPSET_CMD_DEL, "take out of", name, t, entries)
}

func (k *Kernel) change(command int, verb, name string, t policy.SetType, entries []policy.Entry) error {
	for len(entries) > 0 {
		n := min(len(entries), batch)
		all := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
		for _, e := range entries[:n] {
			if !e.Net.Addr().Is4() {
				return fmt.Errorf("%s the set %s: %s is no IPv4 address", verb, name, e.Net)
			}
			all.AddChild(entryOf(t, e))
		}
		line := &nl.Uint32Attribute{Type: nl.IPSET_ATTR_LINENO, Value: 0} // must be there beside ADT
		if _, err := k.do(command, text(nl.IPSET_ATTR_SETNAME, name), line, all); err != nil {
			return fmt.Errorf("%s the set %s: %w", verb, name, describe(err))
		}
		entries = entries[n:]
	}
	return nil
}

func entryOf(t policy.SetType, e policy.Entry) *nl.RtAttr {
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	b := e.Net.Addr().As4()
	addr := nl.NewRtAttr(nl.IPSET_ATTR_IP|int(nl.NLA_F_NESTED), nil)
	addr.AddChild(nl.NewRtAttr(nl.IPSET_ATTR_IPADDR_IPV4|int(nl.NLA_F_NET_BYTEORDER), b[:]))
	data.AddChild(addr)
	switch t {
	case policy.Networks:
		data.AddChild(nl.NewRtAttr(nl.IPSET_ATTR_CIDR, nl.Uint8Attr(uint8(e.Net.Bits()))))
	case policy.Ports:
		data.AddChild(nl.NewRtAttr(nl.IPSET_ATTR_PROTO, nl.Uint8Attr(e.Protocol)))
		data.AddChild(nl.NewRtAttr(nl.IPSET_ATTR_PORT|int(nl.NLA_F_NET_BYTEORDER), binary.BigEndian.AppendUint16(nil, e.Port)))
	}
	return data
}

// List reads all sets that are ours.
func (k *Kernel) List() (map[string]policy.KernelSet, error) {
	messages, err := k.do(nl.IPSET_CMD_LIST)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the kernel's sets: %w", describe(err))
	}
	out := map[string]policy.KernelSet{}
	for _, m := range messages {
		if err := parseSet(m, out); err != nil {
			return nil, fmt.Errorf("list the kernel's sets: %w", err)
		}
	}
	return out, nil
}

func text(kind int, s string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

// do sends a command and returns the answers. What is there already, or is gone, is no error: no NLM_F_EXCL.
func (k *Kernel) do(command int, attrs ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_IPSET<<8, nl.GetIpsetFlags(command))
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: k.socket}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(unix.AF_INET), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

// describe gives the kernel's own numbers their words.
func describe(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno >= nl.IPSET_ERR_PRIVATE {
		return nl.IPSetError(uintptr(errno))
	}
	return err
}

// attr is one attribute without the flags in its type.
type attr struct {
	kind  int
	value []byte
}

// parseAttrs walks a buffer of attributes, each with its length in front and padded to four bytes. (nl.ParseRouteAttr does so, too,
// but runs past the end of a buffer that lacks the last padding.)
func parseAttrs(b []byte) (out []attr, err error) {
	const head = unix.SizeofNlAttr
	for len(b) >= head {
		n := int(binary.NativeEndian.Uint16(b))
		if n < head || n > len(b) {
			return nil, errors.New("an attribute is longer than what it is in")
		}
		out = append(out, attr{int(binary.NativeEndian.Uint16(b[2:]) & nl.NLA_TYPE_MASK), b[head:n]})
		b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return out, nil
}

// parseSet reads one message of a dump: a set, or more of the one before.
func parseSet(message []byte, out map[string]policy.KernelSet) error {
	if len(message) < nl.SizeofNfgenmsg {
		return errors.New("a message is too short")
	}
	attrs, err := parseAttrs(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return err
	}
	var name, typ string
	var entries []policy.Entry
	for _, a := range attrs {
		switch a.kind {
		case nl.IPSET_ATTR_SETNAME:
			name = word(a.value)
		case nl.IPSET_ATTR_TYPENAME:
			typ = word(a.value)
		case nl.IPSET_ATTR_ADT:
			list, err := parseAttrs(a.value)
			if err != nil {
				return err
			}
			for _, x := range list {
				e, err := parseEntry(x.value)
				if err != nil {
					return err
				}
				entries = append(entries, e)
			}
		}
	}
	if !strings.HasPrefix(name, policy.SetPrefix) {
		return nil
	}
	s := out[name]
	if typ != "" {
		s.Type = policy.SetType(typ)
	}
	s.Entries = append(s.Entries, entries...)
	out[name] = s
	return nil
}

func parseEntry(b []byte) (e policy.Entry, err error) {
	attrs, err := parseAttrs(b)
	if err != nil {
		return e, err
	}
	bits := 32
	var addr netip.Addr
	for _, a := range attrs {
		switch {
		case a.kind == nl.IPSET_ATTR_IP:
			in, err := parseAttrs(a.value)
			if err != nil {
				return e, err
			}
			for _, x := range in {
				if x.kind == nl.IPSET_ATTR_IPADDR_IPV4 && len(x.value) >= 4 {
					addr = netip.AddrFrom4([4]byte(x.value[:4]))
				}
			}
		case a.kind == nl.IPSET_ATTR_CIDR && len(a.value) > 0:
			bits = int(a.value[0])
		case a.kind == nl.IPSET_ATTR_PROTO && len(a.value) > 0:
			e.Protocol = a.value[0]
		case a.kind == nl.IPSET_ATTR_PORT && len(a.value) >= 2:
			e.Port = binary.BigEndian.Uint16(a.value)
		}
	}
	e.Net = netip.PrefixFrom(addr, bits)
	if !e.Net.IsValid() {
		return e, errors.New("an entry has no address")
	}
	return e, nil
}

// word is a name that a zero ends.
func word(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

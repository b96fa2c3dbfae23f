package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// quietMillis is how long a connection must have been silent, its server having spoken last, to count as idle. A server that
// pauses for longer in the middle of an answer cannot be told from one that waits for the next question.
const quietMillis = 1000

// Busy tells whether servers in a network namespace are in the middle of answering somebody: a connection to a port that is
// listened on has something to be read or sent, or the client spoke last. A kept-alive connection between two requests, or
// a client of a database that asks nothing, is not. The kernel's own account of its sockets says so (sock_diag(7)), without
// looking at a single packet.
func Busy(netnsPath string) (bool, error) {
	ns, err := openNamespace(netnsPath)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	h, err := ns.netlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		return false, err
	}
	defer h.Close()
	var sockets []*netlink.InetDiagTCPInfoResp
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := h.SocketDiagTCPInfo(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, fmt.Errorf("sockets of %s: %w", netnsPath, err)
		}
		sockets = append(sockets, some...)
	}
	return busy(sockets), nil
}

func busy(sockets []*netlink.InetDiagTCPInfoResp) bool {
	served := map[uint16]bool{}
	for _, s := range sockets {
		if s.InetDiagMsg.State == netlink.TCP_LISTEN {
			served[s.InetDiagMsg.ID.SourcePort] = true
		}
	}
	for _, s := range sockets {
		if served[s.InetDiagMsg.ID.SourcePort] && talking(s) {
			return true
		}
	}
	return false
}

func talking(s *netlink.InetDiagTCPInfoResp) bool {
	switch s.InetDiagMsg.State {
	case netlink.TCP_SYN_RECV, netlink.TCP_NEW_SYN_REC, netlink.TCP_FIN_WAIT1, netlink.TCP_CLOSING, netlink.TCP_LAST_ACK:
		return true // about to begin, or what was sent has not arrived
	case netlink.TCP_ESTABLISHED, netlink.TCP_CLOSE_WAIT:
	default:
		return false
	}
	i := s.TCPInfo
	if i == nil || s.InetDiagMsg.RQueue > 0 || s.InetDiagMsg.WQueue > 0 {
		return true
	}
	if i.Last_data_recv < quietMillis || i.Last_data_sent < quietMillis {
		return true
	}
	// A connection begins with both counted from its beginning. Kernels that count segments (4.2) say whether a byte ever came.
	if i.Segs_in > 0 && i.Bytes_received == 0 {
		return false
	}
	return i.Last_data_recv <= i.Last_data_sent
}

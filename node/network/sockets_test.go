package network

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestTalking(t *testing.T) {
	const port, other = 80, 5432
	socket := func(state uint8, change func(*netlink.InetDiagTCPInfoResp)) *netlink.InetDiagTCPInfoResp {
		s := &netlink.InetDiagTCPInfoResp{InetDiagMsg: &netlink.Socket{State: state}, TCPInfo: &netlink.TCPInfo{Segs_in: 9, Bytes_received: 100}}
		s.InetDiagMsg.ID.SourcePort = port
		s.TCPInfo.Last_data_recv, s.TCPInfo.Last_data_sent = 5000, 4000 // answered, and then silent
		if change != nil {
			change(s)
		}
		return s
	}
	type change = func(*netlink.InetDiagTCPInfoResp)
	for name, test := range map[string]struct {
		state  uint8
		change change
		want   bool
	}{
		"kept alive":                  {netlink.TCP_ESTABLISHED, nil, false},
		"asked, not answered":         {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo.Last_data_recv = 3000 }, true},
		"asked at once, not answered": {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo.Last_data_recv = 4000 }, true},
		"answered a moment ago":       {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo.Last_data_sent = 100 }, true},
		"nothing was asked yet": {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) {
			s.TCPInfo.Bytes_received, s.TCPInfo.Last_data_recv = 0, 4000
		}, false},
		"a moment old": {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) {
			s.TCPInfo.Bytes_received, s.TCPInfo.Last_data_recv, s.TCPInfo.Last_data_sent = 0, 1, 1
		}, true},
		"an old kernel": {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) {
			s.TCPInfo = &netlink.TCPInfo{Last_data_recv: 4000, Last_data_sent: 4000}
		}, true},
		"unread":               {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.InetDiagMsg.RQueue = 1 }, true},
		"not arrived":          {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.InetDiagMsg.WQueue = 1 }, true},
		"the client has ended": {netlink.TCP_CLOSE_WAIT, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo.Last_data_recv = 3000 }, true},
		"beginning":            {netlink.TCP_SYN_RECV, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo = nil }, true},
		"ending":               {netlink.TCP_FIN_WAIT1, nil, true},
		"ended":                {netlink.TCP_TIME_WAIT, func(s *netlink.InetDiagTCPInfoResp) { s.TCPInfo = nil }, false},
		"to another's server":  {netlink.TCP_ESTABLISHED, func(s *netlink.InetDiagTCPInfoResp) { s.InetDiagMsg.ID.SourcePort, s.TCPInfo.Last_data_recv = other, 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			all := []*netlink.InetDiagTCPInfoResp{socket(netlink.TCP_LISTEN, nil), socket(test.state, test.change)}
			if got := busy(all); got != test.want {
				t.Errorf("busy: %v, want %v", got, test.want)
			}
		})
	}
}

// TestBusyReadsTheKernel looks at this process's own sockets: a request that is not answered shows.
func TestBusyReadsTheKernel(t *testing.T) {
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	client, err := net.Dial("tcp4", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.WriteString(client, "GET"); err != nil {
		t.Fatal(err)
	}
	if got, err := Busy(fmt.Sprintf("/proc/%d/ns/net", os.Getpid())); err != nil || !got {
		t.Errorf("busy: %v, %v", got, err)
	}
	if _, err := Busy("/proc/0/ns/net"); err == nil {
		t.Error("a namespace that is not there is not busy")
	}
}

package announce

import (
	"encoding/binary"
	"net/netip"
)

// What an ARP packet says it is (RFC 826).
const (
	opRequest = 1
	opReply   = 2

	packetSize = 28 // for IPv4 over Ethernet
	// Where its addresses are.
	offsetSenderMAC, offsetSenderIP, offsetTargetMAC, offsetTargetIP = 8, 14, 18, 24
)

// header is the beginning of every ARP packet for IPv4 over Ethernet, up to the operation.
var header = [6]byte{0, 1, 8, 0, 6, 4}

// broadcast is every machine on the link.
var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Packet is one ARP packet.
type Packet struct {
	Op                   uint16
	SenderMAC, TargetMAC MAC
	SenderIP, TargetIP   netip.Addr
}

func (p Packet) bytes() []byte {
	b := make([]byte, packetSize)
	copy(b, header[:])
	binary.BigEndian.PutUint16(b[6:], p.Op)
	copy(b[offsetSenderMAC:], p.SenderMAC[:])
	copy(b[offsetTargetMAC:], p.TargetMAC[:])
	sender, target := p.SenderIP.As4(), p.TargetIP.As4()
	copy(b[offsetSenderIP:], sender[:])
	copy(b[offsetTargetIP:], target[:])
	return b
}

// parsePacket reads what came; false when it is no ARP packet for IPv4 over Ethernet. Frames are padded, so more may follow.
func parsePacket(b []byte) (Packet, bool) {
	if len(b) < packetSize || [6]byte(b[:6]) != header {
		return Packet{}, false
	}
	return Packet{
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: MAC(b[offsetSenderMAC:offsetSenderIP]), TargetMAC: MAC(b[offsetTargetMAC:offsetTargetIP]),
		SenderIP: netip.AddrFrom4([4]byte(b[offsetSenderIP:offsetTargetMAC])), TargetIP: netip.AddrFrom4([4]byte(b[offsetTargetIP:packetSize])),
	}, true
}

// probe asks whether anybody has the address, without saying that we do (RFC 5227, 2.1.1).
func probe(mac MAC, ip netip.Addr) Packet {
	return Packet{Op: opRequest, SenderMAC: mac, SenderIP: netip.IPv4Unspecified(), TargetIP: ip}
}

// announcement tells everybody on the link where the address is. There are two forms of it, and machines that believe only one
// of them: the request of RFC 5227, 2.3, and the reply that nobody asked for.
func announcement(mac MAC, ip netip.Addr) [2]Packet {
	return [2]Packet{
		{Op: opRequest, SenderMAC: mac, SenderIP: ip, TargetIP: ip},
		{Op: opReply, SenderMAC: mac, SenderIP: ip, TargetMAC: mac, TargetIP: ip},
	}
}

// answer is the reply to a request.
func answer(mac MAC, to Packet) Packet {
	return Packet{Op: opReply, SenderMAC: mac, SenderIP: to.TargetIP, TargetMAC: to.SenderMAC, TargetIP: to.SenderIP}
}

// announces tells that the sender says of itself, unasked, that it has an address.
func (p Packet) announces() bool { return p.SenderIP == p.TargetIP }

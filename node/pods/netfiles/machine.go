package netfiles

import (
	"bytes"
	"fmt"
)

// What wp-agent run --node-dns puts at the top of the machine's own resolv.conf is between these two lines, so that it can be
// taken out again whatever others have written meanwhile.
const (
	machineBegin = "# wp-agent run --node-dns: the cluster's names. Taken out when wp-agent stops.\n"
	machineEnd   = "# wp-agent end\n"
)

// WithServer is the machine's resolv.conf with this server before the others. Should it not answer, resolvers ask the next one after
// a second (at once when only the agent is down, for its address is still there and its port is closed); the machine's own
// options come later in the file, and count.
func WithServer(file []byte, server string) []byte {
	return fmt.Appendf(nil, "%snameserver %s\noptions timeout:1\n%s%s", machineBegin, server, machineEnd, WithoutServer(file))
}

// WithoutServer is the file without what WithServer has put there.
func WithoutServer(file []byte) []byte {
	for {
		at := bytes.Index(file, []byte(machineBegin))
		if at < 0 {
			return file
		}
		rest := file[at+len(machineBegin):]
		if end := bytes.Index(rest, []byte(machineEnd)); end >= 0 {
			rest = rest[end+len(machineEnd):]
		} else { // somebody has taken the last line out: then ours are the two after the first
			for range 2 {
				_, rest, _ = bytes.Cut(rest, []byte("\n"))
			}
		}
		file = append(bytes.Clone(file[:at]), rest...)
	}
}

package streams

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
)

// connect serves CONNECT (RFC 9110, section 9.3.6): the master reaches pods and services through their nodes with it. It is for
// addresses of pods and of other machines, never for what listens for this node alone.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request) {
	addr, err := netip.ParseAddrPort(r.Host)
	if err != nil || !addr.Addr().Unmap().IsGlobalUnicast() || addr.Port() == 0 {
		h.fail(w, r, BadRequest("address not allowed: %s", r.Host))
		return
	}
	dialing, cancel := context.WithTimeout(r.Context(), connectTimeout)
	defer cancel()
	var d net.Dialer
	there, err := d.DialContext(dialing, "tcp", addr.String())
	if err != nil {
		// The master reads why; a status of its own tells that nobody answered from what somebody answered.
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	u, r, done := upgrade(w, r)
	defer done()
	here, _, err := u.Hijack()
	if err != nil {
		h.log.Debug("connection not taken over", "err", err)
		return
	}
	if _, err := io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	defer context.AfterFunc(r.Context(), func() { there.Close() })()
	go func() {
		defer done() // what was asked for ends with the side that asks
		io.Copy(there, here)
	}()
	io.Copy(here, there)
}

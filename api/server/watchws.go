package server

import (
	"context"
	"net/http"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
)

// isWebSocket says whether the client wants to upgrade, as browsers' watches do.
func isWebSocket(req *http.Request) bool {
	return strings.EqualFold(req.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(req.Header.Get("Connection")), "upgrade")
}

// serveWebSocket sends each event as a message of its own: text for JSON, binary for protobuf.
func (st *watchStream) serveWebSocket(ctx context.Context, w Watch, o *internalversion.ListOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := websocket.Server{
		// A browser's origin does not matter: whoever asks was authenticated by certificate or token.
		Handshake: func(*websocket.Config, *http.Request) error { return nil },
		Handler: func(ws *websocket.Conn) {
			defer ws.Close()
			go func() {
				// The client has nothing to say; what ends the reading is its going away.
				defer cancel()
				var ignored []byte
				for websocket.Message.Receive(ws, &ignored) == nil {
				}
			}()
			st.flush = func() error { return nil }
			st.send = func(frame []byte) error {
				if st.acc.format == formatJSON {
					return websocket.Message.Send(ws, string(frame))
				}
				return websocket.Message.Send(ws, frame)
			}
			st.run(ctx, w, o)
		},
	}
	srv.ServeHTTP(st.rq.out, st.rq.req)
	return nil
}

package sessions

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// maxAnswer is how much of an agent's words about a failure is read.
const maxAnswer = 4 << 10

// RemoveVolume asks a node's agent to delete the data of a local volume, by the name of its directory. It implements
// persistentvolume.Remover.
func (s *Server) RemoveVolume(ctx context.Context, node, dir string) error {
	u := url.URL{Scheme: "http", Host: node, Path: "/localVolumes/" + dir}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, u.String(), nil)
	if err != nil {
		return err
	}
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, node) },
		DisableKeepAlives: true,
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return fmt.Errorf("agent of node %s: %s: %s", node, resp.Status, strings.TrimSpace(string(said)))
}

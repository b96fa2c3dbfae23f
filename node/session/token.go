package session

import (
	"context"
	"errors"
	"time"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

var errAway = errors.New("there is no connection to the master")

func (c *Client) setAPI(api agentv1.AgentClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.api = api
}

// Token asks the master for a service account token for a pod of this node. Without audiences it is for the API.
func (c *Client) Token(ctx context.Context, req *agentv1.TokenRequest) (token string, expires time.Time, err error) {
	c.mu.Lock()
	api := c.api
	c.mu.Unlock()
	if api == nil {
		return "", time.Time{}, errAway
	}
	res, err := api.Token(ctx, req)
	if err != nil {
		return "", time.Time{}, errors.New(describe(err))
	}
	return res.Token, time.Unix(res.ExpiresUnix, 0), nil
}

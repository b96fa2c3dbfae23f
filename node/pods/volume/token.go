package volume

import (
	"context"
	"errors"
	"time"
)

// Tokens are renewed after four fifths of their life, or after a day if that is sooner, as the API's documentation of
// serviceAccountToken projections says.
const (
	tokenMaxAge  = 24 * time.Hour
	tokenTimeout = 10 * time.Second
	tokenRetry   = 30 * time.Second
)

type token struct {
	value          string
	renew, expires time.Time
}

var errNoTokens = errors.New("this node has no source of service account tokens")

// token returns one that is not due for renewal, from memory if there is one.
func (m *Manager) token(ctx context.Context, r TokenRequest) (token, error) {
	now := time.Now()
	m.mu.Lock()
	have, ok := m.tokens[r]
	m.mu.Unlock()
	if ok && now.Before(have.renew) {
		return have, nil
	}
	if m.cfg.Tokens == nil {
		return token{}, errNoTokens
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	value, expires, err := m.cfg.Tokens.Token(ctx, r)
	if err != nil {
		if ok && now.Before(have.expires) {
			have.renew = now.Add(tokenRetry)
			return have, nil
		}
		return token{}, err
	}
	life := expires.Sub(now)
	t := token{value: value, expires: expires, renew: now.Add(min(life*4/5, tokenMaxAge))}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[r] = t
	return t, nil
}

func (m *Manager) forgetTokens(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range m.tokens {
		if r.PodUID == uid {
			delete(m.tokens, r)
		}
	}
}

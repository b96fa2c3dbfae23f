package volume

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Tokens are renewed after four fifths of their life, or after a day if that is sooner, as the API's documentation of
// serviceAccountToken projections says.
const (
	tokenMaxAge  = 24 * time.Hour
	tokenTimeout = 10 * time.Second
	tokenRetry   = 30 * time.Second
	// tokenMode of a token that belongs to the one user or group that the pod runs as.
	tokenMode = 0o600
	// defaultTokenSeconds is the API's default life of a token.
	defaultTokenSeconds = 3600
)

// TokenRequest asks for a service account token bound to a pod.
type TokenRequest struct {
	Namespace, ServiceAccount string
	PodName, PodUID           string
	// Audience is empty for the API.
	Audience          string
	ExpirationSeconds int64
}

// TokenSource issues service account tokens; the master does, over the session.
type TokenSource interface {
	Token(ctx context.Context, r TokenRequest) (token string, expires time.Time, err error)
}

type token struct {
	value          string
	renew, expires time.Time
}

func newToken(value string, issued, expires time.Time) token {
	return token{value: value, expires: expires, renew: issued.Add(min(expires.Sub(issued)/5*4, tokenMaxAge))}
}

var errNoTokens = errors.New("this node has no source of service account tokens")

// addToken puts a token into the payload and tells when it is to be renewed. dir is where the volume is, with the token
// that a former agent may have left.
func (m *Manager) addToken(ctx context.Context, p payload, pod *corev1.Pod, dir string, t *corev1.ServiceAccountTokenProjection, mode int32) (renew time.Time, err error) {
	req := TokenRequest{
		Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName, PodName: pod.Name, PodUID: string(pod.UID),
		Audience: t.Audience, ExpirationSeconds: defaultTokenSeconds,
	}
	if t.ExpirationSeconds != nil {
		req.ExpirationSeconds = *t.ExpirationSeconds
	}
	name := path.Clean(t.Path)
	m.recall(req, dir, name)
	tok, err := m.token(ctx, req)
	if err != nil {
		return time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	f := file{data: []byte(tok.value), mode: mode, owner: onlyUser(pod)}
	if f.owner != nil || fsGroup(pod) != nil {
		f.mode = tokenMode
	}
	p[name] = f
	return tok.renew, nil
}

// onlyUser is the user that every container of the pod runs as, if the manifest says so; nil otherwise.
func onlyUser(pod *corev1.Pod) *int64 {
	var common *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		common = sc.RunAsUser
	}
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			own := common
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				own = sc.RunAsUser
			}
			if own == nil || user != nil && *own != *user {
				return nil
			}
			user = own
		}
	}
	return user
}

// recall takes up the token that is in the volume, if none is in memory: the agent was started anew, and the master may be
// away.
func (m *Manager) recall(r TokenRequest, dir, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.tokens[r]; ok {
		return
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return // a new volume
	}
	defer func() { _ = root.Close() }()
	data, err := root.ReadFile(name)
	if err != nil {
		return
	}
	if t, ok := parseToken(string(data)); ok {
		m.tokens[r] = t
	}
}

// parseToken reads the times of a JSON Web Token (RFC 7519); whether it is genuine is nobody's question here.
func parseToken(value string) (token, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return token{}, false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return token{}, false
	}
	var claims struct{ Iat, Exp int64 }
	if err := json.Unmarshal(body, &claims); err != nil || claims.Exp <= claims.Iat {
		return token{}, false
	}
	return newToken(value, time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0)), true
}

// token returns one that is not due for renewal, from memory if there is one. One that is due but good is kept as long as
// the source cannot be reached.
func (m *Manager) token(ctx context.Context, r TokenRequest) (token, error) {
	now := time.Now()
	m.mu.Lock()
	have, ok := m.tokens[r]
	m.mu.Unlock()
	if ok && now.Before(have.renew) {
		return have, nil
	}
	t, err := m.fetch(ctx, r, now)
	if err != nil {
		if ok && now.Before(have.expires) {
			have.renew = now.Add(tokenRetry)
			return have, nil
		}
		return token{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[r] = t
	return t, nil
}

func (m *Manager) fetch(ctx context.Context, r TokenRequest, now time.Time) (token, error) {
	if m.cfg.Tokens == nil {
		return token{}, errNoTokens
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	value, expires, err := m.cfg.Tokens.Token(ctx, r)
	return newToken(value, now, expires), err
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

package master

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/satoken"
	"github.com/whalepod/whalepod/master/internal/sessions"
)

// Groups that Kubernetes gives to users by how they came.
const (
	groupAuthenticated = "system:authenticated"
	groupBootstrappers = "system:bootstrappers"
	groupAccounts      = "system:serviceaccounts"
	bootstrapUser      = "system:bootstrap:"
	// extraPrefix of what is known of a token beside its user.
	extraPrefix = "authentication.kubernetes.io/"
)

// authenticator knows people and nodes by their client certificates, pods by their service account's token, and joining
// machines by theirs.
type authenticator struct {
	registry *registry.Registry
	pki      *pki.PKI
	tokens   *satoken.Authority
}

// Authenticate takes whichever of the two is good, the certificate first, as Kubernetes does.
func (a authenticator) Authenticate(req *http.Request) (server.User, error) {
	var shown []*x509.Certificate
	if req.TLS != nil {
		shown = req.TLS.PeerCertificates
	}
	err := a.pki.Verify(shown, time.Now())
	if err == nil {
		return certificateUser(shown[0])
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return server.User{}, err
	}
	if strings.Count(token, ".") == 2 { // a JSON Web Token; a join token has one dot
		return a.accountUser(token, server.Audiences(req.Context()))
	}
	if err := sessions.CheckToken(a.registry, token, time.Now()); err != nil {
		return server.User{}, err
	}
	id, _, _ := strings.Cut(token, ".")
	return server.User{Name: bootstrapUser + id, Groups: []string{groupBootstrappers, groupAuthenticated}}, nil
}

// accountUser is the service account of a token that is for one of the audiences, or, without such, for the API.
func (a authenticator) accountUser(token string, audiences []string) (server.User, error) {
	if len(audiences) == 0 {
		audiences = []string{a.tokens.Issuer()}
	}
	now := time.Now()
	t, matched, err := a.tokens.Verify(token, audiences, now)
	if err == nil {
		err = a.registry.CheckToken(t, now)
	}
	if err != nil {
		return server.User{}, err
	}
	u := server.User{
		Name: satoken.User(t.Namespace, t.Account.Name), UID: string(t.Account.UID), Audiences: matched,
		Groups: []string{groupAccounts, groupAccounts + ":" + t.Namespace, groupAuthenticated},
		Extra:  map[string][]string{extraPrefix + "credential-id": {"JTI=" + t.ID}},
	}
	for kind, ref := range map[string]*satoken.Ref{"pod": t.Pod, "node": t.Node} {
		if ref != nil {
			u.Extra[extraPrefix+kind+"-name"], u.Extra[extraPrefix+kind+"-uid"] = []string{ref.Name}, []string{string(ref.UID)}
		}
	}
	return u, nil
}

func certificateUser(cert *x509.Certificate) (server.User, error) {
	if cert.Subject.CommonName == "" {
		return server.User{}, errors.New("the client certificate names no user (CN)")
	}
	groups := append([]string{}, cert.Subject.Organization...)
	return server.User{Name: cert.Subject.CommonName, Groups: append(groups, groupAuthenticated)}, nil
}

// authorize is asked about users outside system:masters.
func (m *Master) authorize(_ context.Context, u server.User, a server.Attributes) (bool, string) {
	if why := rightless(u); why != "" {
		return false, why
	}
	return m.policy.Authorize(u, a)
}

// mayUser is what expressions of admission ask.
func (m *Master) mayUser(u server.User, a server.Attributes) (bool, string) {
	if slices.Contains(u.Groups, pki.GroupMasters) {
		return true, ""
	}
	if why := rightless(u); why != "" {
		return false, why
	}
	return m.policy.Authorize(u, a)
}

// rules lists what a user may do.
func (m *Master) rules(_ context.Context, u server.User, namespace string) ([]authorizationv1.ResourceRule, []authorizationv1.NonResourceRule, error) {
	if why := rightless(u); why != "" {
		return nil, nil, errors.New(why)
	}
	return m.policy.Review(u, namespace)
}

// rightless says why somebody has no rights whatever roles are bound to everybody. Agents speak to the agents' port, joining
// machines do too: neither has any business with the API.
func rightless(u server.User) string {
	for _, g := range u.Groups {
		switch g {
		case pki.GroupNodes:
			return "nodes use the agents' port of the master"
		case groupBootstrappers:
			return "a join token is for joining only"
		}
	}
	return ""
}

package master

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/sessions"
)

// Groups that Kubernetes gives to users by how they came.
const (
	groupAuthenticated = "system:authenticated"
	groupBootstrappers = "system:bootstrappers"
	bootstrapUser      = "system:bootstrap:"
)

// authenticator knows people and nodes by their client certificates, and joining machines by their token.
type authenticator struct {
	registry *registry.Registry
	pki      *pki.PKI
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
	if err := sessions.CheckToken(a.registry, token, time.Now()); err != nil {
		return server.User{}, err
	}
	id, _, _ := strings.Cut(token, ".")
	return server.User{Name: bootstrapUser + id, Groups: []string{groupBootstrappers, groupAuthenticated}}, nil
}

func certificateUser(cert *x509.Certificate) (server.User, error) {
	if cert.Subject.CommonName == "" {
		return server.User{}, errors.New("the client certificate names no user (CN)")
	}
	groups := append([]string{}, cert.Subject.Organization...)
	return server.User{Name: cert.Subject.CommonName, Groups: append(groups, groupAuthenticated)}, nil
}

// authorize is asked about users outside system:masters. Agents speak to the agents' port, joining machines do too: neither
// has any business with the API.
func authorize(_ context.Context, u server.User, _ server.Attributes) (bool, string) {
	for _, g := range u.Groups {
		switch g {
		case pki.GroupNodes:
			return false, "nodes use the agents' port of the master"
		case groupBootstrappers:
			return false, "a join token is for joining only"
		}
	}
	return false, fmt.Sprintf("only members of %s have rights", pki.GroupMasters)
}

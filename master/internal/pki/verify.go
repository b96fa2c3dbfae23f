package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"time"
)

// APITLS is ServerTLS for the API. It takes any client certificate: Verify judges them request by request, as Kubernetes does,
// so that one of another cluster gets a 401 and one that expires stops being good on connections that live on.
func (p *PKI) APITLS() *tls.Config {
	c := p.ServerTLS()
	c.ClientAuth = tls.RequestClientCert
	return c
}

// maxKnown bounds the certificates remembered as the cluster's own. Only such get in, so nobody else can fill it.
const maxKnown = 1024

// known remembers certificates whose signature was checked: a check costs as much as a small request.
type known struct {
	mu  sync.Mutex
	raw map[string]struct{}
}

func (k *known) has(cert *x509.Certificate) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.raw[string(cert.Raw)]
	return ok
}

func (k *known) add(cert *x509.Certificate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.raw == nil || len(k.raw) >= maxKnown {
		k.raw = map[string]struct{}{}
	}
	k.raw[string(cert.Raw)] = struct{}{}
}

// Verify says why what a client showed (its certificate, then those between it and the CA) is not good now, or nil.
func (p *PKI) Verify(shown []*x509.Certificate, now time.Time) error {
	if len(shown) == 0 {
		return errors.New("no client certificate")
	}
	cert := shown[0]
	if p.known.has(cert) && !now.Before(cert.NotBefore) && !now.After(cert.NotAfter) {
		return nil
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(p.caCert)
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	if len(chains[0]) == 2 { // signed by the CA itself: only its own time can end it
		p.known.add(cert)
	}
	return nil
}

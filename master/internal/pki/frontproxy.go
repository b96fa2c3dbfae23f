package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// FrontProxyName is the common name of the certificate with which the master vouches to other API servers for whoever asks
// through it.
const FrontProxyName = "front-proxy-client"

// frontProxy is a CA of its own: who trusts it lets its bearer speak for everybody, which no other certificate of the cluster
// may. It is no part of the cluster's identity: another one is published as this one is.
type frontProxy struct {
	ca   *x509.Certificate
	key  crypto.Signer
	mu   sync.Mutex
	cert *tls.Certificate
}

func (p *PKI) openFrontProxy() error {
	certFile, keyFile := p.path("front-proxy-ca.crt"), p.path("front-proxy-ca.key")
	cert, key, err := readPair(certFile, keyFile)
	switch {
	case err == nil && !dueForRenewal(cert, time.Now()):
		p.front.ca, p.front.key = cert, key
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		p.log.Warn("the CA of the front proxy cannot be read and is made again", "err", err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "front-proxy-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(tmpl, tmpl, key.Public(), key, caLife)
	if err != nil {
		return err
	}
	if err := writePair(certFile, keyFile, der, key); err != nil {
		return fmt.Errorf("the CA of the front proxy: %w", err)
	}
	p.front.key = key
	p.front.ca, err = x509.ParseCertificate(der)
	return err
}

// FrontProxyCA is what other API servers know the master by, in PEM.
func (p *PKI) FrontProxyCA() []byte { return certPEM(p.front.ca.Raw) }

// FrontProxy is the certificate by which the master shows other API servers that it is the master. It is made when first asked
// for, and never written.
func (p *PKI) FrontProxy() (*tls.Certificate, error) {
	f := &p.front
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cert != nil && !dueForRenewal(f.cert.Leaf, time.Now()) {
		return f.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := sign(clientTemplate(FrontProxyName), f.ca, key.Public(), f.key, certLife)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	f.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return f.cert, nil
}

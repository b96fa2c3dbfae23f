// Package pki is the cluster's identity: the CA made at the first start, the certificates of master, people and nodes, the
// keys of gossip and service account tokens, and the admin kubeconfig. It owns the files below its directory and imports
// nothing of ours.
package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Lifetimes. A certificate is renewed when a third of its life is left.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// Clocks of cheap servers differ.
	backdate   = 5 * time.Minute
	checkEvery = 12 * time.Hour
)

// Names that Kubernetes gives a meaning.
const (
	// GroupMasters may do everything.
	GroupMasters = "system:masters"
	// GroupNodes are the agents; a node's user name is NodePrefix and its name.
	GroupNodes = "system:nodes"
	NodePrefix = "system:node:"
	adminUser  = "kubernetes-admin"
)

const keyBytes = 32

// Config of the cluster's identity.
type Config struct {
	// Dir holds the files; it is made with mode 0700.
	Dir string
	// SANs are the names and addresses under which the master is reached.
	SANs   []string
	Logger *slog.Logger
}

// PKI is the opened identity.
type PKI struct {
	cfg       Config
	log       *slog.Logger
	caCert    *x509.Certificate
	caKey     crypto.Signer
	server    atomic.Pointer[tls.Certificate]
	gossipKey []byte
	// tokenKey signs the tokens of service accounts.
	tokenKey *ecdsa.PrivateKey
	// kubeconfig is the admin's file once it was written, and the server that it names: Run keeps it good.
	kubeconfig, kubeconfigServer string
	known                        known
	front                        frontProxy
}

// Open reads the identity below cfg.Dir, making what is missing. A file that cannot be read is an error, never replaced:
// a new CA would lock every node and person out.
func Open(cfg Config) (*PKI, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the cluster's certificates: %w", err)
	}
	p := &PKI{cfg: cfg, log: cfg.Logger.With("component", "pki")}
	if err := p.openCA(); err != nil {
		return nil, err
	}
	if err := p.openServer(); err != nil {
		return nil, err
	}
	if err := p.openTokenKey(); err != nil {
		return nil, err
	}
	if err := p.openFrontProxy(); err != nil {
		return nil, err
	}
	var err error
	p.gossipKey, err = secretFile(p.path(gossipKeyFile))
	return p, err
}

func (p *PKI) path(name string) string { return filepath.Join(p.cfg.Dir, name) }

func (p *PKI) openCA() error {
	cert, key, err := readPair(p.path("ca.crt"), p.path("ca.key"))
	if err == nil {
		p.caCert, p.caKey = cert, key
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the cluster's CA is damaged: %w; restore ca.crt and ca.key in %s from a backup, or remove both to make a new CA, after which every node must join again", err, p.cfg.Dir)
	}
	// A key without its certificate, lost or never written, makes the same CA again: nodes trust the key.
	if key, err = caKey(p.path("ca.key")); err != nil {
		return fmt.Errorf("the key of the cluster's CA is damaged: %w; restore ca.crt and ca.key in %s from a backup, or remove both to make a new CA, after which every node must join again", err, p.cfg.Dir)
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "whalepod-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}
	der, err := sign(tmpl, tmpl, key.Public(), key, caLife)
	if err != nil {
		return err
	}
	if err := writePair(p.path("ca.crt"), p.path("ca.key"), der, key); err != nil {
		return err
	}
	p.log.Info("made the cluster's CA", "file", p.path("ca.crt"))
	p.caKey = key
	p.caCert, err = x509.ParseCertificate(der)
	return err
}

// openTokenKey reads the key of service account tokens, or makes it: with another one, every pod's token is refused until it
// has got a new one.
func (p *PKI) openTokenKey() error {
	path := p.path(tokenKeyFile)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			err = writeKey(path, key)
		}
	}
	if err != nil {
		return fmt.Errorf("the key of service account tokens: %w; restore %s from a backup, or remove it to make a new one, after which pods get new tokens", err, path)
	}
	p.tokenKey = key.(*ecdsa.PrivateKey)
	return nil
}

// caKey reads the key, or makes one when there is none.
func caKey(path string) (crypto.Signer, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return key, err
}

// openServer reads the master's certificate, or issues one when it is missing, near its end, of another CA, or does not
// name all SANs.
func (p *PKI) openServer() error {
	cert, key, err := readPair(p.path("apiserver.crt"), p.path("apiserver.key"))
	switch {
	case err == nil && p.good(cert):
		p.setServer(cert.Raw, key)
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		p.log.Warn("the master's certificate cannot be read and is made again", "err", err)
	}
	return p.issueServer()
}

func (p *PKI) good(cert *x509.Certificate) bool {
	if cert.CheckSignatureFrom(p.caCert) != nil || dueForRenewal(cert, time.Now()) {
		return false
	}
	for _, san := range p.cfg.SANs {
		if cert.VerifyHostname(san) != nil {
			return false
		}
	}
	return true
}

func dueForRenewal(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return now.After(cert.NotAfter.Add(-life/3)) || now.Before(cert.NotBefore)
}

func (p *PKI) issueServer() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "wp-master"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	addSANs(tmpl, p.cfg.SANs)
	der, err := sign(tmpl, p.caCert, key.Public(), p.caKey, certLife)
	if err != nil {
		return err
	}
	if err := writePair(p.path("apiserver.crt"), p.path("apiserver.key"), der, key); err != nil {
		return err
	}
	p.setServer(der, key)
	p.log.Info("issued the master's certificate", "names", p.cfg.SANs)
	return nil
}

func (p *PKI) setServer(der []byte, key crypto.Signer) {
	// The CA goes along so that a joining agent can compare its hash.
	p.server.Store(&tls.Certificate{Certificate: [][]byte{der, p.caCert.Raw}, PrivateKey: key})
}

// Run renews the master's certificate and the admin's while they are in use, until ctx ends.
func (p *PKI) Run(ctx context.Context) error {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.renew()
		}
	}
}

func (p *PKI) renew() {
	cert, err := x509.ParseCertificate(p.server.Load().Certificate[0])
	if err != nil || dueForRenewal(cert, time.Now()) {
		if err := p.issueServer(); err != nil {
			p.log.Error("the master's certificate could not be renewed", "err", err)
		}
	}
	if p.kubeconfig == "" {
		return
	}
	if err := p.WriteKubeconfig(p.kubeconfig, p.kubeconfigServer); err != nil {
		p.log.Error("the admin's certificate could not be renewed", "file", p.kubeconfig, "err", err)
	}
}

// ServerTLS is the configuration of the agents' listener. Clients may come without a certificate (to join, with a token);
// one that they do bring must be the cluster's.
func (p *PKI) ServerTLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(p.caCert)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.server.Load(), nil
		},
	}
}

// CA is the cluster's CA certificate in PEM.
func (p *PKI) CA() []byte { return certPEM(p.caCert.Raw) }

// CAHash is the SHA-256 of the CA's public key, as in kubeadm's --discovery-token-ca-cert-hash: sha256:HEX.
func (p *PKI) CAHash() string { return HashOf(p.caCert) }

// HashOf a CA certificate; see CAHash.
func HashOf(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// GossipKey encrypts the gossip between machines; 32 bytes.
func (p *PKI) GossipKey() []byte { return p.gossipKey }

// TokenKey signs the tokens of service accounts.
func (p *PKI) TokenKey() *ecdsa.PrivateKey { return p.tokenKey }

// SignNode answers a node's certificate request (PKCS #10, DER). Only its public key is taken from it.
func (p *PKI) SignNode(name string, csr []byte) (pem []byte, err error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("certificate request of node %s: %w", name, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request of node %s is not signed with its own key: %w", name, err)
	}
	der, err := sign(clientTemplate(NodePrefix+name, GroupNodes), p.caCert, req.PublicKey, p.caKey, certLife)
	return certPEM(der), err
}

// Sign makes a certificate of the cluster's CA for a public key, in PEM. It ends with the CA at the latest.
func (p *PKI) Sign(tmpl *x509.Certificate, public any) (pem []byte, err error) {
	if tmpl.NotAfter.After(p.caCert.NotAfter) {
		tmpl.NotAfter = p.caCert.NotAfter
	}
	if !tmpl.NotAfter.After(tmpl.NotBefore) {
		return nil, fmt.Errorf("the cluster's CA ends at %s, before the certificate would begin", p.caCert.NotAfter)
	}
	if tmpl.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.caCert, public, p.caKey)
	return certPEM(der), err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func clientTemplate(user string, groups ...string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer, life time.Duration) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore = time.Now().Add(-backdate)
	tmpl.NotAfter = time.Now().Add(life)
	return x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
}

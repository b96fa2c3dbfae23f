package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/node/session"
)

// identityOf makes the identity of a node whose certificate, which is its own CA, ends at that time.
func identityOf(t *testing.T, dir string, until time.Time) (caHash string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	id := &session.Identity{
		Node: "n1", Masters: []string{"127.0.0.1:1"}, Certificate: text, CA: text,
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), Config: []byte("{}"),
	}
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// The join line may stand in a start script; what it must not do is stay with another cluster, or with no usable identity.
func TestJoinAgain(t *testing.T) {
	for _, tt := range []struct {
		name    string
		left    time.Duration
		hash    string // empty: of the identity's own CA
		err     string
		isKnown bool
	}{
		{"the same cluster", time.Hour, "", "", true},
		{"another cluster at the same address", time.Hour, "sha256:00", "already", false},
		{"expired", -time.Hour, "", "did not let this machine join", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			own := identityOf(t, dir, time.Now().Add(tt.left))
			o := &options{dataDir: dir, join: session.JoinOptions{Master: "127.0.0.1:1", Token: "a.b", NodeName: "n1", CAHash: tt.hash}}
			if tt.hash == "" {
				o.join.CAHash = own
			}
			id, err := identity(t.Context(), "join", o)
			if (id != nil) != tt.isKnown || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Error(id, err)
			}
		})
	}
}

func TestNodeIP(t *testing.T) {
	if ip, err := nodeIP("198.51.100.7", "127.0.0.1:6444"); err != nil || ip.String() != "198.51.100.7" {
		t.Error(ip, err)
	}
	if ip, err := nodeIP("", "127.0.0.1:6444"); err == nil || !strings.Contains(err.Error(), "--node-ip") {
		t.Error(ip, err)
	}
}

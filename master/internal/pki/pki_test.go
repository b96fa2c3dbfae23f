package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func open(t *testing.T, dir string, sans ...string) *PKI {
	t.Helper()
	p, err := Open(Config{Dir: dir, SANs: append([]string{"127.0.0.1", "localhost"}, sans...), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serving is the certificate that a client meets.
func serving(t *testing.T, p *PKI) *x509.Certificate {
	t.Helper()
	pair, err := p.ServerTLS().GetCertificate(nil)
	if err != nil || len(pair.Certificate) != 2 || !bytes.Equal(pair.Certificate[1], p.caCert.Raw) {
		t.Fatal("the CA does not come with the certificate", err)
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p := open(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		info, _ := e.Info()
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		names = append(names, e.Name())
	}
	if want := []string{"apiserver.crt", "apiserver.key", "ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "gossip.key", "sa.key"}; !slices.Equal(names, want) {
		t.Errorf("files %v", names)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
	again := open(t, dir)
	if again.CAHash() != p.CAHash() || !bytes.Equal(again.GossipKey(), p.GossipKey()) || !serving(t, p).Equal(serving(t, again)) {
		t.Error("a second start made another identity")
	}
	if !strings.HasPrefix(p.CAHash(), "sha256:") || len(p.CAHash()) != 7+64 || len(p.GossipKey()) != 32 {
		t.Error(p.CAHash(), len(p.GossipKey()))
	}
}

func TestDamageIsRefusedAndLeft(t *testing.T) {
	for file, content := range map[string]string{
		"ca.crt": "", "ca.key": "not a key", "gossip.key": "abc", "sa.key": "?",
	} {
		dir := t.TempDir()
		open(t, dir)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		before := contents(t, dir)
		_, err := Open(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s damaged: %v", file, err)
		}
		for name, was := range before {
			if got := contents(t, dir)[name]; got != was {
				t.Errorf("%s damaged: %s was changed", file, name)
			}
		}
	}
	dir := t.TempDir()
	open(t, dir)
	other := t.TempDir()
	open(t, other)
	os.WriteFile(filepath.Join(dir, "ca.key"), []byte(contents(t, other)["ca.key"]), 0o600)
	if _, err := Open(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("a foreign key: %v", err)
	}
	os.Remove(filepath.Join(dir, "ca.key"))
	if _, err := Open(Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "its key") {
		t.Errorf("no key: %v", err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// The certificate of the CA can be lost; with the key it is the same CA to everybody who has its old certificate.
func TestLostCACertificate(t *testing.T) {
	dir := t.TempDir()
	before := open(t, dir)
	os.Remove(filepath.Join(dir, "ca.crt"))
	after := open(t, dir)
	if before.CAHash() != after.CAHash() {
		t.Fatal("another CA was made although its key was there")
	}
	os.Remove(filepath.Join(dir, "apiserver.crt"))
	after = open(t, dir)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(before.CA())
	if _, err := serving(t, after).Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Errorf("who trusts the old certificate: %v", err)
	}
}

func TestServerCertificateIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	first := serving(t, open(t, dir))
	if c := serving(t, open(t, dir, "203.0.113.5", "api.example.com")); c.VerifyHostname("203.0.113.5") != nil || c.VerifyHostname("api.example.com") != nil || c.VerifyHostname("127.0.0.1") != nil {
		t.Error("new names are not in it")
	}
	wider := serving(t, open(t, dir)) // fewer names are no reason
	if wider.Equal(first) || wider.VerifyHostname("api.example.com") != nil {
		t.Error("made again without need")
	}
	os.WriteFile(filepath.Join(dir, "apiserver.key"), []byte("x"), 0o600)
	if c := serving(t, open(t, dir)); c.Equal(wider) {
		t.Error("not made again")
	}
}

func TestRenewalWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := open(t, dir)
		kubeconfig := filepath.Join(dir, "config", "admin.kubeconfig")
		if err := p.WriteKubeconfig(kubeconfig, "https://127.0.0.1:6443"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		first, person := serving(t, p), admin(t, kubeconfig)
		time.Sleep(200 * 24 * time.Hour)
		synctest.Wait()
		if !serving(t, p).Equal(first) || !admin(t, kubeconfig).Equal(person) {
			t.Error("renewed too early")
		}
		for range 10 { // two years and more
			time.Sleep(90 * 24 * time.Hour)
			synctest.Wait()
			for _, c := range []*x509.Certificate{serving(t, p), admin(t, kubeconfig)} {
				if left := time.Until(c.NotAfter); left < 100*24*time.Hour {
					t.Errorf("%s has %v left", c.Subject.CommonName, left)
				}
			}
		}
		if !serving(t, open(t, dir)).Equal(serving(t, p)) {
			t.Error("what is on the disk is not what is served")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func admin(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	c, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	auth := c.AuthInfos["kubernetes-admin"]
	if _, err := tls.X509KeyPair(auth.ClientCertificateData, auth.ClientKeyData); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(auth.ClientCertificateData)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	file := filepath.Join(dir, "admin.kubeconfig")
	write := func(server string) string {
		t.Helper()
		if err := p.WriteKubeconfig(file, server); err != nil {
			t.Fatal(err)
		}
		data, _ := os.ReadFile(file)
		return string(data)
	}
	first := write("https://127.0.0.1:6443")
	if info, _ := os.Stat(file); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	cert := admin(t, file)
	if !slices.Contains(cert.Subject.Organization, GroupMasters) {
		t.Error(cert.Subject)
	}
	if write("https://127.0.0.1:6443") != first {
		t.Error("written again without need")
	}
	second := write("https://203.0.113.5:6443")
	if !strings.Contains(second, "203.0.113.5") {
		t.Error(second)
	}
	// A file that a person uses for other clusters too.
	c, _ := clientcmd.LoadFromFile(file)
	c.Clusters["work"] = &clientcmdapi.Cluster{Server: "https://work"}
	c.Contexts["work"] = &clientcmdapi.Context{Cluster: "work"}
	c.CurrentContext = "work"
	clientcmd.WriteToFile(*c, file)
	third := write("https://203.0.113.6:6443")
	c, err := clientcmd.LoadFromFile(file)
	if err != nil || c.Clusters["work"] == nil || c.CurrentContext != "work" || c.Clusters["whalepod"].Server != "https://203.0.113.6:6443" {
		t.Error(third, err)
	}
	os.WriteFile(file, []byte("{half"), 0o600)
	write("https://203.0.113.6:6443")
	admin(t, file)
	if data, _ := os.ReadFile(file + ".damaged"); string(data) != "{half" {
		t.Errorf("set aside: %q", data)
	}
}

func TestSignNode(t *testing.T) {
	p := open(t, t.TempDir())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"kubernetes"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.SignNode("n1", csr)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "system:node:n1" || !slices.Equal(cert.Subject.Organization, []string{GroupNodes}) || len(cert.DNSNames) != 0 || cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("%+v", cert.Subject)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.caCert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool}); err == nil {
		t.Error("a node's certificate is good for a server")
	}
	if _, err := p.SignNode("n1", []byte("x")); err == nil || !strings.Contains(err.Error(), "certificate request of node n1") {
		t.Error(err)
	}
	csr[len(csr)-1] ^= 1
	if _, err := p.SignNode("n1", csr); err == nil || !strings.Contains(err.Error(), "not signed with its own key") {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	now := time.Now()
	issued := func(p *PKI) *x509.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := sign(clientTemplate("ann", GroupMasters), p.caCert, key.Public(), p.caKey, certLife)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	p, other := open(t, t.TempDir()), open(t, t.TempDir())
	good, foreign := issued(p), issued(other)
	forged := *foreign // what it says counts for nothing, what was signed does
	forged.NotAfter = now.Add(100 * certLife)
	for range 2 { // the second time from memory
		for name, c := range map[string]struct {
			shown []*x509.Certificate
			at    time.Time
			ok    bool
		}{
			"none":                   {nil, now, false},
			"good":                   {[]*x509.Certificate{good}, now, true},
			"expired":                {[]*x509.Certificate{good}, now.Add(certLife + time.Hour), false},
			"not yet":                {[]*x509.Certificate{good}, now.Add(-time.Hour), false},
			"of another cluster":     {[]*x509.Certificate{foreign}, now, false},
			"with its own authority": {[]*x509.Certificate{&forged, other.caCert}, now, false},
			"a server's":             {[]*x509.Certificate{serving(t, p)}, now, false},
		} {
			if err := p.Verify(c.shown, c.at); (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(p.known.raw) != 1 {
		t.Errorf("%d certificates remembered", len(p.known.raw))
	}
}

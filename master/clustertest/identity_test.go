package clustertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"
)

// stranger is a certificate that says of itself what an admin's says.
func stranger(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestWhoIsNobody(t *testing.T) {
	run(t, 0, func(c *cluster) {
		ask := func(client *http.Client, token string) int {
			req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, c.kube.RESTClient().Get().AbsPath("/api/v1/pods").URL().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		with := func(cert *tls.Certificate) *http.Client {
			tr := &http.Transport{DialContext: c.dialAPI, DisableKeepAlives: true, TLSClientConfig: &tls.Config{
				InsecureSkipVerify:   true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
			}}
			t.Cleanup(tr.CloseIdleConnections)
			return &http.Client{Transport: tr}
		}
		nobody := with(&tls.Certificate{})
		for _, test := range []struct {
			name, token string
			client      *http.Client
			want        int
		}{
			{"nothing", "", nobody, 401},
			{"another cluster's certificate", "", with(stranger(t)), 401},
			{"a bad token", "abcdef.xxxxxxxxxxxxxxxx", nobody, 401},
			{"a join token", token, nobody, 403},
			{"a join token and another cluster's certificate", token, with(stranger(t)), 403},
			{"a bad token and a good certificate", "abcdef.xxxxxxxxxxxxxxxx", c.http, 200},
		} {
			if got := ask(test.client, test.token); got != test.want {
				t.Errorf("%s: %d, want %d", test.name, got, test.want)
			}
		}
	})
}

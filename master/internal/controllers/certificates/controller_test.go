package certificates_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/certificates"
	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

type request = certificatesv1.CertificateSigningRequest

func newRequest(t *testing.T, name, signer string, usages ...certificatesv1.KeyUsage) *request {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{"devs"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	if usages == nil {
		usages = []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}
	}
	seconds := int32(3600)
	return &request{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages, ExpirationSeconds: &seconds,
	}}
}

// start runs the controller with a signer that tells what it was asked for.
func start(e *controllertest.Env) (asked func() []*x509.Certificate) {
	var templates []*x509.Certificate
	e.Start(certificates.New(certificates.Config{Registry: e.Registry, Logger: e.Logger, Sign: func(t *x509.Certificate, public any) ([]byte, error) {
		if public == nil {
			e.T.Error("no public key")
		}
		templates = append(templates, t)
		return []byte("signed"), nil
	}}).Run)
	return func() []*x509.Certificate {
		synctest.Wait()
		return templates
	}
}

func decide(e *controllertest.Env, name string, t certificatesv1.RequestConditionType) {
	e.T.Helper()
	e.Update(func(tx *registry.Tx) error {
		csr, err := registry.Get[*request](tx, "", name)
		if err != nil {
			return err
		}
		csr = csr.DeepCopy()
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: t, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()}}
		_, err = registry.PutStatus(tx, csr)
		return err
	})
}

func TestApprovedRequestsAreSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		asked := start(e)
		client := certificatesv1.KubeAPIServerClientSignerName
		controllertest.Create(e, newRequest(t, "jane", client))
		controllertest.Create(e, newRequest(t, "denied", client))
		controllertest.Create(e, newRequest(t, "other", "example.com/mine"))
		controllertest.Create(e, newRequest(t, "server", client, certificatesv1.UsageServerAuth))
		if n := len(asked()); n != 0 {
			t.Fatalf("%d signed before anybody approved", n)
		}
		decide(e, "jane", certificatesv1.CertificateApproved)
		decide(e, "denied", certificatesv1.CertificateDenied)
		decide(e, "other", certificatesv1.CertificateApproved)
		decide(e, "server", certificatesv1.CertificateApproved)
		got := asked()
		if len(got) != 1 {
			t.Fatalf("signed: %d", len(got))
		}
		life := got[0].NotAfter.Sub(got[0].NotBefore)
		if got[0].Subject.CommonName != "jane" || got[0].IsCA || life != time.Hour+5*time.Minute || len(got[0].ExtKeyUsage) != 1 {
			t.Errorf("asked for %+v (%s)", got[0], life)
		}
		if csr := controllertest.Get[*request](e, "", "jane"); string(csr.Status.Certificate) != "signed" {
			t.Errorf("jane: %+v", csr.Status)
		}
		csr := controllertest.Get[*request](e, "", "server")
		if c := csr.Status.Conditions; len(c) != 2 || c[1].Type != certificatesv1.CertificateFailed || c[1].Reason != "SignerValidationFailure" ||
			c[1].Message != "invalid usage for client certificate: server auth" {
			t.Errorf("server: %+v", csr.Status)
		}
	})
}

func TestOldRequestsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		start(e)
		for _, name := range []string{"signed", "denied", "pending"} {
			controllertest.Create(e, newRequest(t, name, certificatesv1.KubeAPIServerClientSignerName))
		}
		controllertest.Create(e, newRequest(t, "unsigned", "example.com/mine"))
		decide(e, "signed", certificatesv1.CertificateApproved)
		decide(e, "denied", certificatesv1.CertificateDenied)
		decide(e, "unsigned", certificatesv1.CertificateApproved)
		left := func() (names string) {
			for _, name := range []string{"denied", "pending", "signed", "unsigned"} {
				if _, err := controllertest.Find[*request](e, "", name); err == nil {
					names += name + " "
				}
			}
			return names
		}
		controllertest.Settle(59 * time.Minute)
		if got := left(); got != "denied pending signed unsigned " {
			t.Errorf("after 59 minutes: %s", got)
		}
		controllertest.Settle(2 * time.Minute)
		if got := left(); got != "pending unsigned " {
			t.Errorf("after an hour: %s", got)
		}
		controllertest.Settle(23 * time.Hour)
		if got := left(); got != "" {
			t.Errorf("after a day: %s", got)
		}
	})
}

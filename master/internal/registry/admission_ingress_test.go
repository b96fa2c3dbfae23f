package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/server"
)

func TestDefaultIngressClass(t *testing.T) {
	e := start(t)
	ingress := func(name string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: networkingv1.IngressSpec{
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}},
		}}
	}
	class := func(name string, isDefault string) {
		mustCreate(e, &networkingv1.IngressClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: isDefault}},
			Spec:       networkingv1.IngressClassSpec{Controller: "example.com/" + name},
		})
	}
	if got := mustCreate(e, ingress("none")); got.Spec.IngressClassName != nil {
		t.Errorf("without classes: %s", *got.Spec.IngressClassName)
	}
	class("other", "false")
	class("nginx", "true")
	if got := mustCreate(e, ingress("default")); got.Spec.IngressClassName == nil || *got.Spec.IngressClassName != "nginx" {
		t.Errorf("with a default: %v", got.Spec.IngressClassName)
	}
	named, other := ingress("named"), "other"
	named.Spec.IngressClassName = &other
	if got := mustCreate(e, named); *got.Spec.IngressClassName != "other" {
		t.Errorf("named: %v", *got.Spec.IngressClassName)
	}
	old := ingress("old")
	old.Annotations = map[string]string{networkingv1beta1.AnnotationIngressClass: "haproxy"}
	if got := mustCreate(e, old); got.Spec.IngressClassName != nil {
		t.Errorf("with the annotation: %v", *got.Spec.IngressClassName)
	}
}

func TestSigningRequestsOfUsers(t *testing.T) {
	e := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(name, organization string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{organization}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
			Username: "forged", Groups: []string{"system:masters"},
		}}
	}
	jane := server.WriteOptions{User: server.User{Name: "jane", UID: "1", Groups: []string{"devs"}, Extra: map[string][]string{"a": {"b"}}}}
	r := res("certificatesigningrequests.certificates.k8s.io")
	made, err := e.Create(e.ctx, r, "", request("jane", "devs"), jane)
	if err != nil {
		t.Fatal(err)
	}
	spec := made.(*certificatesv1.CertificateSigningRequest).Spec
	if spec.Username != "jane" || spec.UID != "1" || len(spec.Groups) != 1 || spec.Groups[0] != "devs" || spec.Extra["a"][0] != "b" {
		t.Errorf("asked by %+v", spec)
	}
	_, err = e.Create(e.ctx, r, "", request("root", "system:masters"), jane)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed") {
		t.Errorf("a request for system:masters: %v", err)
	}
}

package resource

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An Ingress as posts before Kubernetes 1.19 wrote it.
func TestOldIngress(t *testing.T) {
	for _, version := range []string{"networking.k8s.io/v1beta1", "extensions/v1beta1"} {
		stored, err := table.ToStorage(decoded(t, "{apiVersion: "+version+`, kind: Ingress, metadata: {name: shop, annotations: {kubernetes.io/ingress.class: nginx}},
  spec: {rules: [{host: shop.example.com, http: {paths: [{path: /, backend: {serviceName: shop, servicePort: 80}}]}}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		stored.SetNamespace("default")
		ing := stored.(*networkingv1.Ingress)
		path := ing.Spec.Rules[0].HTTP.Paths[0]
		if path.Backend.Service == nil || path.Backend.Service.Name != "shop" || path.Backend.Service.Port.Number != 80 ||
			path.PathType == nil || *path.PathType != networkingv1.PathTypeImplementationSpecific {
			t.Errorf("%s became %+v", version, path)
		}
		r, _ := table.ByKey("ingresses.networking.k8s.io")
		if errs := r.Rules().Validate(t.Context(), ing); len(errs) > 0 {
			t.Error(errs)
		}
		warnings := r.Rules().Warnings(t.Context(), ing, nil)
		if len(warnings) != 1 || !strings.Contains(warnings[0], "please use 'spec.ingressClassName' instead") {
			t.Errorf("warnings: %q", warnings)
		}
	}
}

// What is written through /approval and /status of a CertificateSigningRequest are different things.
func TestSigningRequestParts(t *testing.T) {
	r, _ := table.ByKey("certificatesigningrequests.certificates.k8s.io")
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Why"}
	old := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "example.com/a"}}
	next := old.DeepCopy()
	next.Spec.SignerName = "example.com/b"
	next.Status = certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x"), Conditions: []certificatesv1.CertificateSigningRequestCondition{approved}}
	r.Rules().Updates["approval"].Prepare(next, old)
	c := next.Status.Conditions[0]
	if next.Spec.SignerName != "example.com/a" || next.Status.Certificate != nil || c.LastUpdateTime.IsZero() || c.LastTransitionTime.IsZero() {
		t.Errorf("after an approval: %+v", next)
	}

	signed := next.DeepCopy()
	signed.Status.Certificate = []byte("x")
	signed.Status.Conditions[0].Reason = "Another"
	signed.Status.Conditions = append(signed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "Mine", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	r.Rules().PrepareStatus(signed, next)
	if signed.Status.Certificate == nil || signed.Status.Conditions[0].Reason != "Why" || len(signed.Status.Conditions) != 2 {
		t.Errorf("after signing: %+v", signed.Status)
	}

	signed.Status.Conditions = signed.Status.Conditions[1:]
	if errs := r.Rules().ValidateStatus(t.Context(), signed, next); len(errs) == 0 {
		t.Error("an approval can be taken back through /status")
	}
}

package rbac

import (
	"context"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// Who may write to certificatesigningrequests/approval may not approve for every signer by that.
func TestWhoDecidesOnCertificates(t *testing.T) {
	e := newEnv(t)
	allowed := func(verb, name string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{name}}
	}
	add(e, clusterRole("approver", allowed("approve", "example.com/a")))
	add(e, clusterRole("domain", allowed("approve", "example.com/*"), allowed("sign", "example.com/*")))
	add(e, clusterBinding("approver", "approver", user("jane")))
	add(e, clusterBinding("domain", "domain", user("dom")))
	for _, signer := range []string{"a", "b"} {
		add(e, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: signer},
			Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "example.com/" + signer}})
	}
	r, _ := testTable().ByKey(signingRequests)
	write := func(u server.User, sub, name string, change func(*certificatesv1.CertificateSigningRequest)) error {
		// A dry run, so that one answer does not change the next.
		o := server.UpdateOptions{WriteOptions: server.WriteOptions{User: u, DryRun: true}}
		_, _, err := e.backend.Update(context.Background(), r, sub, "", name, o, func(current resource.Object) (resource.Object, error) {
			change(current.(*certificatesv1.CertificateSigningRequest))
			return current, nil
		})
		return err
	}
	decide := func(csr *certificatesv1.CertificateSigningRequest) {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Test"})
	}
	fail := func(csr *certificatesv1.CertificateSigningRequest) {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "Test"})
	}
	label := func(csr *certificatesv1.CertificateSigningRequest) { csr.Labels = map[string]string{"a": "b"} }
	mayWrite := func(err error) { // what these stubs of requests lack is for validation to say
		t.Helper()
		if err != nil && !apierrors.IsInvalid(err) {
			t.Error(err)
		}
	}
	mayWrite(write(who("jane"), "approval", "a", decide))
	wants(t, write(who("jane"), "approval", "b", decide), 403, `user not permitted to approve requests with signerName "example.com/b"`)
	wants(t, write(who("jane"), "status", "a", fail), 403, `user not permitted to sign requests with signerName "example.com/a"`)
	mayWrite(write(who("jane"), "status", "a", label))
	mayWrite(write(who("jane"), "", "b", label))
	mayWrite(write(who("dom"), "approval", "b", decide))
	mayWrite(write(who("dom"), "status", "b", fail))
	mayWrite(write(who("root", groupMasters), "approval", "b", decide))
}

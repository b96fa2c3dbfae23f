package resource

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install" // the scheme does not have this group from elsewhere
	"k8s.io/kubernetes/pkg/apis/certificates/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

var certificatesV1 = schema.GroupVersion{Group: "certificates.k8s.io", Version: "v1"}

// certificateSigningRequests: who asks is written by the registry, which knows; who may approve and sign is not a rule of
// the kind: see master/internal/rbac.
func certificateSigningRequests() *Resource {
	certificate := fieldpath.MakePathOrDie("status", "certificate")
	conditions := fieldpath.MakePathOrDie("status", "conditions")
	return &Resource{
		Name: "certificatesigningrequests", Singular: "certificatesigningrequest", Kind: "CertificateSigningRequest",
		ListKind: "CertificateSigningRequestList", ShortNames: []string{"csr"},
		Storage: certificatesV1, Served: served(certificatesV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status":   statusOf(certificatesV1, "CertificateSigningRequest"),
			"approval": statusOf(certificatesV1, "CertificateSigningRequest"),
		},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.(*certificatesv1.CertificateSigningRequest).Status = certificatesv1.CertificateSigningRequestStatus{}
			},
			PrepareUpdate: func(obj, old Object) {
				csr, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
				csr.Spec, csr.Status = before.Spec, before.Status
			},
			PrepareStatus:  prepareCSRStatus,
			Validate:       validate(validation.ValidateCertificateSigningRequestCreate),
			ValidateUpdate: validateChange(validation.ValidateCertificateSigningRequestUpdate),
			ValidateStatus: validateChange(validation.ValidateCertificateSigningRequestStatusUpdate),
			Updates: map[string]UpdateRules{"approval": {
				Prepare:  prepareApproval,
				Validate: validateChange(validation.ValidateCertificateSigningRequestApprovalUpdate),
			}},
			Fields: func(obj Object) map[string]string {
				return map[string]string{"spec.signerName": obj.(*certificatesv1.CertificateSigningRequest).Spec.SignerName}
			},
			AllowUnconditionalUpdate: true,
			Reset: map[string][]fieldpath.Path{
				"":         {resetSpec[0], resetStatus[0]},
				"status":   {resetSpec[0], conditions},
				"approval": {resetSpec[0], certificate},
			},
		},
	}
}

// prepareCSRStatus keeps the request, and the decision about it as it is written, as long as there are as many conditions of
// that type as before: validation refuses others.
func prepareCSRStatus(obj, old Object) {
	csr, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	csr.Spec = before.Spec
	for _, decision := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		now, then := csrConditions(csr, decision), csrConditions(before, decision)
		if len(now) != len(then) {
			continue
		}
		for i := range now {
			*now[i] = *then[i]
		}
	}
	dateConditions(csr, before)
}

// prepareApproval takes nothing but the conditions.
func prepareApproval(obj, old Object) {
	csr, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	dateConditions(csr, before)
	conditions := csr.Status.Conditions
	csr.Spec, csr.Status = before.Spec, before.Status
	csr.Status.Conditions = conditions
}

func csrConditions(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequestCondition {
	var out []*certificatesv1.CertificateSigningRequestCondition
	for i := range csr.Status.Conditions {
		if c := &csr.Status.Conditions[i]; c.Type == t {
			out = append(out, c)
		}
	}
	return out
}

// dateConditions fills in when a condition was written and when it changed, where the client did not say.
func dateConditions(csr, before *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, same := range csrConditions(before, c.Type) {
			if same.Status == c.Status && !same.LastTransitionTime.IsZero() {
				c.LastTransitionTime = same.LastTransitionTime
				break
			}
		}
	}
}

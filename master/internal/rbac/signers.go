package rbac

import (
	"bytes"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

const signingRequests = "certificatesigningrequests.certificates.k8s.io"

// checkSigner does what Kubernetes' CertificateApproval and CertificateSigning admission do: who writes a decision needs the
// right to approve for the request's signer, who writes a certificate the right to sign.
func (g *guard) checkSigner(u *server.User, sub string, obj, old resource.Object) error {
	before, ok := old.(*certificatesv1.CertificateSigningRequest)
	next, is := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || !is {
		return nil
	}
	verb := "approve"
	switch sub {
	case "approval":
	case "status":
		if bytes.Equal(before.Status.Certificate, next.Status.Certificate) &&
			apiequality.Semantic.DeepEqual(before.Status.Conditions, next.Status.Conditions) {
			return nil
		}
		verb = "sign"
	default:
		return nil
	}
	signer := before.Spec.SignerName
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		if allowed, _ := g.Authorize(*u, server.Attributes{
			Verb: verb, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name,
		}); allowed {
			return nil
		}
	}
	return apierrors.NewForbidden(certificatesv1.Resource("certificatesigningrequests"), before.Name,
		fmt.Errorf("user not permitted to %s requests with signerName %q", verb, signer))
}

package registry

import (
	"crypto/x509"
	"encoding/pem"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/api/server"
)

// groupMasters may do everything; nobody gets there by a signing request.
const groupMasters = "system:masters"

// stampRequester writes down who asks for a certificate: whoever approves it relies on that.
func stampRequester(csr *certificatesv1.CertificateSigningRequest, u server.User) {
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = u.Name, u.UID, slices.Clone(u.Groups), nil
	if len(u.Extra) == 0 {
		return
	}
	csr.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(u.Extra))
	for k, v := range u.Extra {
		csr.Spec.Extra[k] = slices.Clone(v)
	}
}

// admitSigningRequest does what Kubernetes' CertificateSubjectRestriction admission does. A request that cannot be read is
// refused by validation.
func admitSigningRequest(csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return nil
	}
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil && slices.Contains(asked.Subject.Organization, groupMasters) {
		return apierrors.NewForbidden(certificatesv1.Resource("certificatesigningrequests"), csr.Name,
			errorf("use of %s signer with system:masters group is not allowed", csr.Spec.SignerName))
	}
	return nil
}

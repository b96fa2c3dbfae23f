package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Durations are those of kube-controller-manager.
const (
	// decidedLife is how long a request is kept that was denied, failed or fulfilled; pendingLife, that waits for somebody.
	decidedLife = time.Hour
	pendingLife = 24 * time.Hour
	// maxLife of a certificate, and the shortest that somebody may ask for.
	maxLife = 365 * 24 * time.Hour
	minLife = 10 * time.Minute
	// backdate is for clocks that are behind. A certificate that lives shorter than short ends as late as it says.
	backdate = 5 * time.Minute
	short    = 8 * time.Hour
)

// endOf says when a request is deleted: the first of the rules that it falls under; zero for never.
func endOf(csr *certificatesv1.CertificateSigningRequest) time.Time {
	var end time.Time
	until := func(t time.Time, life time.Duration) {
		if !t.IsZero() && (end.IsZero() || t.Add(life).Before(end)) {
			end = t.Add(life)
		}
	}
	if len(csr.Status.Conditions) == 0 {
		until(csr.CreationTimestamp.Time, pendingLife)
	}
	for _, c := range csr.Status.Conditions {
		switch {
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			until(c.LastUpdateTime.Time, decidedLife)
		case c.Type == certificatesv1.CertificateApproved && len(csr.Status.Certificate) > 0:
			until(c.LastUpdateTime.Time, decidedLife)
			until(notAfter(csr.Status.Certificate), 0)
		case c.Type == certificatesv1.CertificateApproved:
			until(c.LastUpdateTime.Time, pendingLife)
		}
	}
	return end
}

func notAfter(chain []byte) time.Time {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

// waits says whether a request is approved and waits for our signature.
func waits(csr *certificatesv1.CertificateSigningRequest) bool {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName || len(csr.Status.Certificate) > 0 {
		return false
	}
	approved := false
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied:
			return false
		case certificatesv1.CertificateFailed:
			if c.Status == corev1.ConditionTrue {
				return false
			}
		case certificatesv1.CertificateApproved:
			approved = true
		}
	}
	return approved
}

// errUsage is what the requester asked for and does not get.
type errUsage struct{ error }

// template makes the certificate that a request asks for; an errUsage is final.
func template(now time.Time, csr *certificatesv1.CertificateSigningRequest) (*x509.Certificate, any, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, nil, errUsage{errors.New("PEM block type must be CERTIFICATE REQUEST")}
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, nil, errUsage{err}
	}
	usage, err := keyUsage(csr.Spec.Usages)
	if err != nil {
		return nil, nil, errUsage{err}
	}
	life := lifeOf(csr.Spec.ExpirationSeconds)
	end := now.Add(life)
	if life >= short {
		end = end.Add(-backdate)
	}
	return &x509.Certificate{
		Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, EmailAddresses: req.EmailAddresses, URIs: req.URIs,
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdate), NotAfter: end,
	}, req.PublicKey, nil
}

func lifeOf(seconds *int32) time.Duration {
	if seconds == nil {
		return maxLife
	}
	return min(maxLife, max(minLife, time.Duration(*seconds)*time.Second))
}

// keyUsage reads the usages that a client certificate may have.
func keyUsage(usages []certificatesv1.KeyUsage) (x509.KeyUsage, error) {
	var out x509.KeyUsage
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature:
			out |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			out |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageClientAuth:
		default:
			return 0, fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return 0, fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return out, nil
}

// failed is the condition of a request that can never be fulfilled.
func failed(now time.Time, why error) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: why.Error(),
		LastUpdateTime: metav1.Time{Time: now}, LastTransitionTime: metav1.Time{Time: now},
	}
}

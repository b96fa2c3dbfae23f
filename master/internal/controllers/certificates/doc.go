// Package certificates signs approved CertificateSigningRequests of the signer kubernetes.io/kube-apiserver-client with the
// cluster's CA, and deletes old requests of all signers. It is Kubernetes' signing and cleaning controllers in one. Requests
// for other signers are left to whoever plays them; approving is never ours.
package certificates

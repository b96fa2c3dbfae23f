package resource

import (
	"context"
	"crypto/tls"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// secrets: stringData is folded into data when a Secret comes in (ToStorage), and never stored.
func secrets() *Resource {
	return &Resource{
		Name: "secrets", Singular: "secret", Kind: "Secret", ListKind: "SecretList", Namespaced: true,
		Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		rules: Rules{
			PrepareUpdate: func(obj, old Object) {
				if secret := obj.(*corev1.Secret); secret.Type == "" {
					secret.Type = old.(*corev1.Secret).Type
				}
			},
			Validate:       validate(validation.ValidateSecret),
			ValidateUpdate: validateChange(validation.ValidateSecretUpdate),
			Warnings:       secretWarnings,
			Fields: func(obj Object) map[string]string {
				return map[string]string{"type": string(obj.(*corev1.Secret).Type)}
			},
			AllowUnconditionalUpdate: true,
		},
	}
}

// secretWarnings says when the key of a TLS Secret does not belong to its certificate.
func secretWarnings(_ context.Context, obj, _ Object) []string {
	secret := obj.(*corev1.Secret)
	if secret.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

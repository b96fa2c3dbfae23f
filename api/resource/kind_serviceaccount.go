package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func serviceAccounts() *Resource {
	return &Resource{
		Name: "serviceaccounts", Singular: "serviceaccount", Kind: "ServiceAccount", ListKind: "ServiceAccountList",
		Namespaced: true, ShortNames: []string{"sa"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"token": {Kind: authnV1.WithKind("TokenRequest"), Verbs: createOne},
		},
		rules: Rules{
			PrepareCreate:            nameSecretsOnly,
			PrepareUpdate:            func(obj, _ Object) { nameSecretsOnly(obj) },
			Validate:                 validate(validation.ValidateServiceAccount),
			ValidateUpdate:           validateChange(validation.ValidateServiceAccountUpdate),
			Warnings:                 serviceAccountWarnings,
			AllowUnconditionalUpdate: true,
		},
	}
}

// nameSecretsOnly drops everything but the name from references to secrets.
func nameSecretsOnly(obj Object) {
	account := obj.(*corev1.ServiceAccount)
	var names []corev1.ObjectReference
	for _, secret := range account.Secrets {
		names = append(names, corev1.ObjectReference{Name: secret.Name})
	}
	account.Secrets = names
}

// mountableSecrets is the annotation that once limited which secrets a pod may mount.
const mountableSecrets = "kubernetes.io/enforce-mountable-secrets"

func serviceAccountWarnings(_ context.Context, obj, old Object) []string {
	if old != nil {
		if _, was := old.GetAnnotations()[mountableSecrets]; was {
			return nil
		}
	}
	if _, is := obj.GetAnnotations()[mountableSecrets]; !is {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", mountableSecrets)}
}

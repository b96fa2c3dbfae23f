package resource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func namespaces() *Resource {
	return &Resource{
		Name: "namespaces", Singular: "namespace", Kind: "Namespace", ListKind: "NamespaceList",
		ShortNames: []string{"ns"}, Storage: coreV1, Served: served(coreV1),
		// As in Kubernetes there is no deletecollection of namespaces.
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Subresources: map[string]Subresource{
			"status":   statusOf(coreV1, "Namespace"),
			"finalize": {Kind: coreV1.WithKind("Namespace"), Verbs: []string{"update"}},
		},
		rules: Rules{
			PrepareCreate: prepareNamespace,
			PrepareUpdate: func(obj, old Object) {
				ns, before := obj.(*corev1.Namespace), old.(*corev1.Namespace)
				ns.Spec.Finalizers = before.Spec.Finalizers
				ns.Status = before.Status
				nameLabel(ns)
			},
			PrepareStatus: func(obj, old Object) {
				obj.(*corev1.Namespace).Spec = old.(*corev1.Namespace).Spec
			},
			Validate: validate(validation.ValidateNamespace),
			ValidateUpdate: validateChange(func(in, old *core.Namespace) field.ErrorList {
				return append(validation.ValidateNamespace(in), validation.ValidateNamespaceUpdate(in, old)...)
			}),
			ValidateStatus: validateChange(validation.ValidateNamespaceStatusUpdate),
			Updates: map[string]UpdateRules{"finalize": {
				Prepare: func(obj, old Object) {
					obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
				},
				Validate: validateChange(validation.ValidateNamespaceFinalizeUpdate),
			}},
			Fields: func(obj Object) map[string]string {
				ns := obj.(*corev1.Namespace)
				// "name" is an old slip of Kubernetes that clients rely on.
				return map[string]string{"status.phase": string(ns.Status.Phase), "name": ns.Name}
			},
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// prepareNamespace makes the namespace active and adds the finalizer that the namespace controller takes away once the
// namespace is empty. It is no default of the version: later the finalizer may be absent.
func prepareNamespace(obj Object) {
	ns := obj.(*corev1.Namespace)
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	nameLabel(ns)
}

// nameLabel keeps the label that lets selectors name a namespace. Defaults set it too, but not when the name is
// generated afterwards.
func nameLabel(ns *corev1.Namespace) {
	if ns.Name == "" || ns.Labels[corev1.LabelMetadataName] == ns.Name {
		return
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

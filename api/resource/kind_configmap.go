package resource

import "k8s.io/kubernetes/pkg/apis/core/validation"

func configMaps() *Resource {
	return &Resource{
		Name: "configmaps", Singular: "configmap", Kind: "ConfigMap", ListKind: "ConfigMapList", Namespaced: true,
		ShortNames: []string{"cm"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(validation.ValidateConfigMap),
			ValidateUpdate:           validateChange(validation.ValidateConfigMapUpdate),
			AllowUnconditionalUpdate: true,
		},
	}
}

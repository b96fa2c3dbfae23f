package resource

func configMaps() *Resource {
	return &Resource{
		Name: "configmaps", Singular: "configmap", Kind: "ConfigMap", ListKind: "ConfigMapList", Namespaced: true,
		ShortNames: []string{"cm"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
	}
}

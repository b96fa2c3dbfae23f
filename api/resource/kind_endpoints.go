package resource

func endpoints() *Resource {
	return &Resource{
		Name: "endpoints", Singular: "endpoints", Kind: "Endpoints", ListKind: "EndpointsList", Namespaced: true,
		ShortNames: []string{"ep"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
	}
}

package resource

func services() *Resource {
	return &Resource{
		Name: "services", Singular: "service", Kind: "Service", ListKind: "ServiceList", Namespaced: true,
		ShortNames: []string{"svc"}, Categories: categoryAll, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status": statusOf(coreV1, "Service"),
			"proxy":  {Kind: coreV1.WithKind("ServiceProxyOptions"), Verbs: proxyAll},
		},
	}
}

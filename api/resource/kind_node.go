package resource

func nodes() *Resource {
	return &Resource{
		Name: "nodes", Singular: "node", Kind: "Node", ListKind: "NodeList",
		ShortNames: []string{"no"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status": statusOf(coreV1, "Node"),
			"proxy":  {Kind: coreV1.WithKind("NodeProxyOptions"), Verbs: proxyAll},
		},
	}
}

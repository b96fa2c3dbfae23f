package resource

func pods() *Resource {
	return &Resource{
		Name: "pods", Singular: "pod", Kind: "Pod", ListKind: "PodList", Namespaced: true,
		ShortNames: []string{"po"}, Categories: categoryAll, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status":      statusOf(coreV1, "Pod"),
			"binding":     {Kind: coreV1.WithKind("Binding"), Verbs: createOne},
			"eviction":    {Kind: policyV1.WithKind("Eviction"), Verbs: createOne},
			"log":         {Kind: coreV1.WithKind("Pod"), Verbs: []string{"get"}},
			"exec":        {Kind: coreV1.WithKind("PodExecOptions"), Verbs: connect},
			"attach":      {Kind: coreV1.WithKind("PodAttachOptions"), Verbs: connect},
			"portforward": {Kind: coreV1.WithKind("PodPortForwardOptions"), Verbs: connect},
			"proxy":       {Kind: coreV1.WithKind("PodProxyOptions"), Verbs: proxyAll},
		},
	}
}

package resource

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
	}
}

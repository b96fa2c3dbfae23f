package resource

func replicaSets() *Resource {
	return &Resource{
		Name: "replicasets", Singular: "replicaset", Kind: "ReplicaSet", ListKind: "ReplicaSetList", Namespaced: true,
		ShortNames: []string{"rs"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, extensionsV1),
		Subresources: map[string]Subresource{
			"status": statusOf(appsV1, "ReplicaSet"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
		},
	}
}

package resource

func secrets() *Resource {
	return &Resource{
		Name: "secrets", Singular: "secret", Kind: "Secret", ListKind: "SecretList", Namespaced: true,
		Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
	}
}

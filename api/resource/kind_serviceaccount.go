package resource

func serviceAccounts() *Resource {
	return &Resource{
		Name: "serviceaccounts", Singular: "serviceaccount", Kind: "ServiceAccount", ListKind: "ServiceAccountList",
		Namespaced: true, ShortNames: []string{"sa"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"token": {Kind: authnV1.WithKind("TokenRequest"), Verbs: createOne},
		},
	}
}

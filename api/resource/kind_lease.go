package resource

func leases() *Resource {
	return &Resource{
		Name: "leases", Singular: "lease", Kind: "Lease", ListKind: "LeaseList", Namespaced: true,
		Storage: leaseV1, Served: served(leaseV1), Verbs: allVerbs,
	}
}

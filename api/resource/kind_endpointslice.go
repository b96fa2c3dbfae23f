package resource

func endpointSlices() *Resource {
	return &Resource{
		Name: "endpointslices", Singular: "endpointslice", Kind: "EndpointSlice", ListKind: "EndpointSliceList",
		Namespaced: true, Storage: discoveryV1, Served: served(discoveryV1), Verbs: allVerbs,
	}
}

package resource

// events are one storage under two groups; `kubectl events` and describe read the core one, client-go's newer recorder
// writes events.k8s.io.
func events() *Resource {
	return &Resource{
		Name: "events", Singular: "event", Kind: "Event", ListKind: "EventList", Namespaced: true,
		ShortNames: []string{"ev"}, Storage: coreV1, Served: served(coreV1, eventsV1), Verbs: allVerbs,
	}
}

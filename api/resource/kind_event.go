package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// events are one storage under two groups; `kubectl events` and describe read the core one, client-go's newer recorder
// writes events.k8s.io.
func events() *Resource {
	return &Resource{
		Name: "events", Singular: "event", Kind: "Event", ListKind: "EventList", Namespaced: true,
		ShortNames: []string{"ev"}, Storage: coreV1, Served: served(coreV1, eventsV1), Verbs: allVerbs,
		rules: Rules{
			Validate: func(ctx context.Context, obj Object) field.ErrorList {
				gv := versionOf(ctx, coreV1)
				return validate(func(in *core.Event) field.ErrorList {
					return validation.ValidateEventCreate(in, gv)
				})(ctx, obj)
			},
			ValidateUpdate: func(ctx context.Context, obj, old Object) field.ErrorList {
				gv := versionOf(ctx, coreV1)
				return validateChange(func(in, before *core.Event) field.ErrorList {
					return validation.ValidateEventUpdate(in, before, gv)
				})(ctx, obj, old)
			},
			Fields:                   eventFields,
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

func eventFields(obj Object) map[string]string {
	e := obj.(*corev1.Event)
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return map[string]string{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

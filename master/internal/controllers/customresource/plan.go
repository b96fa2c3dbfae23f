package customresource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// names that the definitions of a group have taken.
type names struct{ resources, kinds map[string]bool }

// takenBy collects what the other definitions of a group have.
func takenBy(others []*apiextensionsv1.CustomResourceDefinition) names {
	n := names{map[string]bool{}, map[string]bool{}}
	for _, crd := range others {
		a := crd.Status.AcceptedNames
		for _, name := range append([]string{a.Plural, a.Singular}, a.ShortNames...) {
			n.resources[name] = true
		}
		n.kinds[a.Kind], n.kinds[a.ListKind] = true, true
	}
	return n
}

// accept says which names a definition gets of those that it asks for, and the condition that tells. A name that is taken
// leaves the one that the definition had.
func accept(crd *apiextensionsv1.CustomResourceDefinition, taken names) (apiextensionsv1.CustomResourceDefinitionNames, apiextensionsv1.CustomResourceDefinitionCondition) {
	wanted, got := crd.Spec.Names, *crd.Status.AcceptedNames.DeepCopy()
	cond := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	conflict := func(reason, message string) {
		cond.Status, cond.Reason, cond.Message = apiextensionsv1.ConditionFalse, reason, message
	}
	one := func(name string, to *string, used map[string]bool, reason string) {
		if name != *to && used[name] {
			conflict(reason, inUse(name))
			return
		}
		*to = name
	}
	one(wanted.Plural, &got.Plural, taken.resources, "PluralConflict")
	one(wanted.Singular, &got.Singular, taken.resources, "SingularConflict")
	var short []string
	for _, name := range wanted.ShortNames {
		if !slices.Contains(got.ShortNames, name) && taken.resources[name] {
			short = append(short, inUse(name))
		}
	}
	switch len(short) {
	case 0:
		got.ShortNames = slices.Clone(wanted.ShortNames)
	case 1:
		conflict("ShortNamesConflict", short[0])
	default:
		conflict("ShortNamesConflict", "["+strings.Join(short, ", ")+"]")
	}
	one(wanted.Kind, &got.Kind, taken.kinds, "KindConflict")
	one(wanted.ListKind, &got.ListKind, taken.kinds, "ListKindConflict")
	got.Categories = slices.Clone(wanted.Categories)
	return got, cond
}

func inUse(name string) string { return fmt.Sprintf("%q is already in use", name) }

// name writes the accepted names and the conditions that go with them.
func name(crd *apiextensionsv1.CustomResourceDefinition, taken names, now metav1.Time) {
	if crd.DeletionTimestamp != nil && find(crd, apiextensionsv1.NamesAccepted) != nil || reflect.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) {
		return
	}
	accepted, cond := accept(crd, taken)
	crd.Status.AcceptedNames = accepted
	set(crd, cond, now)
	established := find(crd, apiextensionsv1.Established)
	switch {
	case established != nil && established.Status == apiextensionsv1.ConditionTrue:
	case cond.Status == apiextensionsv1.ConditionTrue:
		set(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "Installing",
			Message: "the initial names have been accepted",
		}, now)
	case established == nil:
		set(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
		}, now)
	}
}

// establish says that the kind is served, which it is by then.
func establish(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	names, established := find(crd, apiextensionsv1.NamesAccepted), find(crd, apiextensionsv1.Established)
	if names == nil || names.Status != apiextensionsv1.ConditionTrue || established != nil && established.Status == apiextensionsv1.ConditionTrue {
		return
	}
	set(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted",
		Message: "the initial names have been accepted",
	}, now)
}

// terminating is the condition of a definition whose objects are being deleted.
func terminating(status apiextensionsv1.ConditionStatus, reason, message string) apiextensionsv1.CustomResourceDefinitionCondition {
	return apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message}
}

func find(crd *apiextensionsv1.CustomResourceDefinition, kind apiextensionsv1.CustomResourceDefinitionConditionType) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range crd.Status.Conditions {
		if crd.Status.Conditions[i].Type == kind {
			return &crd.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(crd *apiextensionsv1.CustomResourceDefinition, kind apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := find(crd, kind)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}

// set writes a condition; its time changes with its status alone.
func set(crd *apiextensionsv1.CustomResourceDefinition, cond apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	cond.LastTransitionTime = now
	old := find(crd, cond.Type)
	if old == nil {
		crd.Status.Conditions = append(crd.Status.Conditions, cond)
		return
	}
	if old.Status == cond.Status {
		cond.LastTransitionTime = old.LastTransitionTime
	}
	*old = cond
}

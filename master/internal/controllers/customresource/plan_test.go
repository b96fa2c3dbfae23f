package customresource

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type crdNames = apiextensionsv1.CustomResourceDefinitionNames

func names4(plural, singular, kind, list string, short ...string) crdNames {
	return crdNames{Plural: plural, Singular: singular, Kind: kind, ListKind: list, ShortNames: short}
}

func TestAcceptNames(t *testing.T) {
	other := &apiextensionsv1.CustomResourceDefinition{Status: apiextensionsv1.CustomResourceDefinitionStatus{
		AcceptedNames: names4("alphas", "alpha", "Alpha", "AlphaList", "al", "a"),
	}}
	for _, test := range []struct {
		name           string
		wanted, had    crdNames
		got            crdNames
		reason, phrase string
	}{
		{"free", names4("betas", "beta", "Beta", "BetaList", "b"), crdNames{}, names4("betas", "beta", "Beta", "BetaList", "b"), "NoConflicts", "no conflicts found"},
		{"plural", names4("alphas", "beta", "Beta", "BetaList"), crdNames{}, names4("", "beta", "Beta", "BetaList"), "PluralConflict", `"alphas" is already in use`},
		{"singular is a short name", names4("betas", "al", "Beta", "BetaList"), crdNames{}, names4("betas", "", "Beta", "BetaList"), "SingularConflict", `"al" is already in use`},
		{"kind", names4("betas", "beta", "Alpha", "BetaList"), crdNames{}, names4("betas", "beta", "", "BetaList"), "KindConflict", `"Alpha" is already in use`},
		{"list kind", names4("betas", "beta", "Beta", "Alpha"), crdNames{}, names4("betas", "beta", "Beta", ""), "ListKindConflict", `"Alpha" is already in use`},
		{"one short name", names4("betas", "beta", "Beta", "BetaList", "b", "a"), crdNames{}, names4("betas", "beta", "Beta", "BetaList"), "ShortNamesConflict", `"a" is already in use`},
		{"two short names", names4("betas", "beta", "Beta", "BetaList", "al", "a"), crdNames{}, names4("betas", "beta", "Beta", "BetaList"), "ShortNamesConflict", `["al" is already in use, "a" is already in use]`},
		{"its own from before", names4("betas", "beta", "Alpha", "BetaList", "a"), names4("betas", "beta", "Alpha", "BetaList", "a"), names4("betas", "beta", "Alpha", "BetaList", "a"), "NoConflicts", "no conflicts found"},
		{"a taken one leaves the old", names4("betas", "beta", "Alpha", "BetaList"), names4("betas", "beta", "Beta", "BetaList"), names4("betas", "beta", "Beta", "BetaList"), "KindConflict", `"Alpha" is already in use`},
	} {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		crd.Spec.Names, crd.Status.AcceptedNames = test.wanted, test.had
		got, cond := accept(crd, takenBy([]*apiextensionsv1.CustomResourceDefinition{other}))
		if !sameNames(got, test.got) || cond.Reason != test.reason || cond.Message != test.phrase {
			t.Errorf("%s: %+v, %s %s", test.name, got, cond.Reason, cond.Message)
		}
	}
}

func sameNames(a, b crdNames) bool {
	if len(a.ShortNames) != len(b.ShortNames) {
		return false
	}
	for i := range a.ShortNames {
		if a.ShortNames[i] != b.ShortNames[i] {
			return false
		}
	}
	return a.Plural == b.Plural && a.Singular == b.Singular && a.Kind == b.Kind && a.ListKind == b.ListKind
}

func TestConditions(t *testing.T) {
	now, later := metav1.Unix(100, 0), metav1.Unix(200, 0)
	crd := &apiextensionsv1.CustomResourceDefinition{}
	crd.Spec.Names = names4("betas", "beta", "Beta", "BetaList")
	establish(crd, now)
	if len(crd.Status.Conditions) != 0 {
		t.Error("established without names")
	}
	name(crd, names{}, now)
	if c := find(crd, apiextensionsv1.Established); c == nil || c.Reason != "Installing" || c.Status != apiextensionsv1.ConditionFalse {
		t.Errorf("%+v", c)
	}
	establish(crd, later)
	if c := find(crd, apiextensionsv1.Established); !isTrue(crd, apiextensionsv1.Established) || c.Reason != "InitialNamesAccepted" || !c.LastTransitionTime.Equal(&later) {
		t.Errorf("%+v", c)
	}
	crd.Spec.Names.Kind = "Alpha"
	name(crd, names{kinds: map[string]bool{"Alpha": true}}, later)
	if isTrue(crd, apiextensionsv1.NamesAccepted) || !isTrue(crd, apiextensionsv1.Established) || crd.Status.AcceptedNames.Kind != "Beta" {
		t.Errorf("%+v", crd.Status)
	}
}

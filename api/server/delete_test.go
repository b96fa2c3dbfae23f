package server

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDeleteOptions: the same options reach the backend from a body in any format, also stamped with the group's version
// as old clients do, and from the query.
func TestDeleteOptions(t *testing.T) {
	s := newTestServer(t)
	want := &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(7)), PropagationPolicy: ptr(metav1.DeletePropagationForeground), DryRun: []string{"All"}}
	want.Kind, want.APIVersion = "DeleteOptions", "v1"
	var proto bytes.Buffer
	if err := encode(&proto, formatProtobuf, false, want); err != nil {
		t.Fatal(err)
	}
	const fields = `"gracePeriodSeconds":7,"propagationPolicy":"Foreground","dryRun":["All"]}`
	for i, c := range []struct{ query, body, typ string }{
		{"", `{"kind":"DeleteOptions","apiVersion":"v1",` + fields, ""},
		{"", `{"kind":"DeleteOptions","apiVersion":"apps/v1",` + fields, "Content-Type: application/json"},
		{"", `{` + fields, ""},
		{"", "gracePeriodSeconds: 7\npropagationPolicy: Foreground\ndryRun: [All]", "Content-Type: application/yaml"},
		{"", proto.String(), "Content-Type: application/vnd.kubernetes.protobuf"},
		{"?gracePeriodSeconds=7&propagationPolicy=Foreground&dryRun=All", "", ""},
	} {
		s.mustCreatePod(t, fmt.Sprint("p", i))
		if r := s.ask(t, "DELETE", pods+"/p"+fmt.Sprint(i)+c.query, c.body, headerOf(c.typ)...); r.code != 200 {
			t.Fatal(i, r)
		}
		d := s.backend.deleted[i]
		if !d.DryRun || *d.GracePeriodSeconds != 7 || *d.Propagation != metav1.DeletePropagationForeground {
			t.Errorf("%d: %+v", i, d)
		}
	}
	for body, want := range map[string]metav1.DeletionPropagation{`{"orphanDependents":true}`: metav1.DeletePropagationOrphan, `{"orphanDependents":false}`: metav1.DeletePropagationBackground} {
		s.ask(t, "DELETE", pods+"/none", body)
		if d := s.backend.deleted[len(s.backend.deleted)-1]; *d.Propagation != want {
			t.Errorf("%s: %s", body, *d.Propagation)
		}
	}
	if r := s.ask(t, "DELETE", pods+"/p1", `{"preconditions":{"uid":"other"}}`); r.code != 409 || !strings.Contains(r.body, "Precondition failed: UID in precondition: other") {
		t.Error(r)
	}
	for body, words := range map[string]string{`{"kind":"Pod"}`: "decoded object cannot be converted to DeleteOptions", `{"gracePeriodSeconds":"x"}`: "cannot unmarshal string",
		`{"propagationPolicy":"Sometimes"}`: "propagationPolicy: Unsupported value", `{"ignoreStoreReadErrorWithClusterBreakingPotential":true}`: "ignoreStoreReadErrorWithClusterBreakingPotential: Forbidden"} {
		if r := s.ask(t, "DELETE", pods+"/p1", body); r.code != 400 && r.code != 422 || !strings.Contains(r.body, words) {
			t.Errorf("%s: %v", body, r)
		}
	}
}

// TestDeleteAnswers: an object that is gone is answered with a Status, one that clients have always got back with itself.
func TestDeleteAnswers(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "p")
	s.mustCreateDeployment(t)
	if r := s.ask(t, "DELETE", pods+"/p", ""); !strings.Contains(r.body, `"kind":"Pod"`) {
		t.Error(r)
	}
	uid := s.deployment(t).UID
	if r := s.ask(t, "DELETE", deploys+"/web", ""); !strings.Contains(r.body, `"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"web","group":"apps","kind":"deployments","uid":"`+string(uid)+`"}`) {
		t.Error(r)
	}
}

func TestDeleteCollection(t *testing.T) {
	s := newTestServer(t)
	for _, n := range []string{"a", "b"} {
		if r := s.ask(t, "POST", cms, `{"metadata":{"name":"`+n+`","labels":{"is":"`+n+`"}}}`); r.code != 201 {
			t.Fatal(r)
		}
	}
	r := s.ask(t, "DELETE", cms+"?labelSelector=is%3Da", "")
	if r.code != 200 || !strings.Contains(r.body, `"kind":"ConfigMapList"`) || !strings.Contains(r.body, `"name":"a"`) {
		t.Error(r)
	}
	if r := s.ask(t, "GET", cms, ""); strings.Contains(r.body, `"name":"a"`) || !strings.Contains(r.body, `"name":"b"`) {
		t.Error(r)
	}
	if r := s.ask(t, "DELETE", "/api/v1/configmaps", ""); r.code != 405 {
		t.Error("a collection of all namespaces must not go at once:", r)
	}
}

func headerOf(h string) []string {
	if h == "" {
		return nil
	}
	return []string{h}
}

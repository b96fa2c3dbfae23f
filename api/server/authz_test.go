package server

import (
	"context"
	"errors"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
)

func TestNoRights(t *testing.T) {
	nothing := func(c *Config) {
		c.Authorize = func(context.Context, User, Attributes) (bool, string) { return false, "because" }
	}
	s := newTestServer(t, nothing)
	for _, path := range []string{"/api", "/apis/apps/v1", "/openapi/v2", "/"} {
		r := s.ask(t, "GET", path, "", "Authorization: Bearer reader")
		if r.code != 403 || !strings.Contains(r.body, `forbidden: User \"reader\" cannot get path \"`+path+`\": because"`) {
			t.Error(path, r)
		}
	}
	if r := s.ask(t, "GET", "/version", "", "Authorization: Bearer reader"); r.code != 200 {
		t.Error("the version is public", r)
	}
}

// TestRightToOneName: a list or watch that a field selector narrows to one object is about that object.
func TestRightToOneName(t *testing.T) {
	var asked []Attributes
	s := newTestServer(t, func(c *Config) {
		c.Authorize = func(_ context.Context, _ User, a Attributes) (bool, string) {
			asked = append(asked, a)
			return false, ""
		}
	})
	for _, query := range []string{
		"?fieldSelector=metadata.name%3Dweb", "?watch=1&fieldSelector=metadata.name=web,metadata.namespace=default",
		"?fieldSelector=metadata.name!%3Dweb", "?fieldSelector=%3D%3D%3D", "",
	} {
		s.ask(t, "GET", pods+query, "", "Authorization: Bearer reader")
	}
	var names []string
	for _, a := range asked {
		names = append(names, a.Verb+" "+a.Name)
	}
	if got := strings.Join(names, ";"); got != "list web;watch web;list ;list ;list " {
		t.Error(got)
	}
}

func TestRulesReview(t *testing.T) {
	const path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
	s := newTestServer(t, func(c *Config) {
		c.Rules = func(_ context.Context, u User, ns string) ([]authorizationv1.ResourceRule, []authorizationv1.NonResourceRule, error) {
			return []authorizationv1.ResourceRule{{Verbs: []string{u.Name}, Resources: []string{ns}}}, nil, errors.New("half of it")
		}
	})
	if r := s.ask(t, "POST", path, "{}"); r.code != 400 || !strings.Contains(r.body, "no namespace on request") {
		t.Error(r)
	}
	r := s.ask(t, "POST", path, `{"spec":{"namespace":"ns"}}`, "Authorization: Bearer reader")
	for _, want := range []string{`"resourceRules":[{"verbs":["reader"],"resources":["ns"]}]`, `"nonResourceRules":[]`, `"incomplete":false`, `"evaluationError":"half of it"`} {
		if r.code != 201 || !strings.Contains(r.body, want) {
			t.Error(want, r)
		}
	}
	s = newTestServer(t)
	if r := s.ask(t, "POST", path, `{"spec":{"namespace":"ns"}}`, "Authorization: Bearer reader"); r.code != 201 || !strings.Contains(r.body, `"incomplete":true`) {
		t.Error(r)
	}
}

// TestQuestionsThatMeanNothing: the words are those of kube-apiserver 1.36.
func TestQuestionsThatMeanNothing(t *testing.T) {
	const group = "/apis/authorization.k8s.io/v1/"
	s := newTestServer(t)
	for _, test := range []struct{ path, spec, want string }{
		{"subjectaccessreviews", `{"resourceAttributes":{"verb":"get"}}`, "spec.user: Invalid value: \\\"\\\": at least one of user or group must be specified"},
		{"subjectaccessreviews", `{"user":"x"}`, "spec.resourceAttributes: Invalid value"},
		{"selfsubjectaccessreviews", `{"resourceAttributes":{},"nonResourceAttributes":{}}`, "cannot be specified in combination with resourceAttributes"},
		{"namespaces/a/localsubjectaccessreviews", `{"user":"x","nonResourceAttributes":{"path":"/"}}`, "disallowed on this kind of request"},
		{"namespaces/a/localsubjectaccessreviews", `{"groups":["x"],"resourceAttributes":{"namespace":"b"}}`, "must match namespace: a"},
	} {
		if r := s.ask(t, "POST", group+test.path, `{"spec":`+test.spec+`}`); r.code != 422 && r.code != 400 || !strings.Contains(r.body, test.want) {
			t.Error(test.path, test.spec, r)
		}
	}
	if r := s.ask(t, "POST", group+"namespaces/a/localsubjectaccessreviews", `{"spec":{"groups":["x"],"resourceAttributes":{"namespace":"a","verb":"get","resource":"pods"}}}`); r.code != 201 || !strings.Contains(r.body, `"allowed":true`) {
		t.Error(r)
	}
}

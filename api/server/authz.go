package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// groupMasters may do everything; its members are not asked about.
	groupMasters = "system:masters"
	// groupAuthenticated is everybody who said who they are.
	groupAuthenticated = "system:authenticated"
)

// Attributes say what a user wants to do, as Kubernetes' authorizers see it.
type Attributes struct {
	Verb string
	// Group, Version, Resource, Subresource, Namespace and Name of a request for a resource.
	Group, Version, Resource, Subresource, Namespace, Name string
	// Path of any other request; "" for resources.
	Path string
}

// attributes of a request for a resource. A list or watch of the one object that a field selector names is about that object,
// so that a right to it alone is enough, as in Kubernetes.
func (rq *request) attributes() Attributes {
	a := Attributes{Verb: rq.verb, Group: rq.gv.Group, Version: rq.gv.Version, Resource: rq.target.resource,
		Subresource: rq.subresource, Namespace: rq.namespace, Name: rq.name}
	if a.Resource == "namespaces" && a.Group == "" {
		a.Namespace = a.Name // a namespace is in itself
	}
	if by := rq.query.Get("fieldSelector"); by != "" && a.Name == "" && (a.Verb == "list" || a.Verb == "watch") {
		if selector, err := fields.ParseSelector(by); err == nil {
			a.Name, _ = selector.RequiresExactMatch(metav1.ObjectNameField)
		}
	}
	return a
}

// authorize answers nil or a 403 in Kubernetes' words.
func (s *Server) authorize(ctx context.Context, u User, a Attributes) error {
	allowed, reason := s.allowed(ctx, u, a)
	if allowed {
		return nil
	}
	msg := htmlSafe.Replace(a.forbidden(u))
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(msg))
}

func (s *Server) allowed(ctx context.Context, u User, a Attributes) (bool, string) {
	if s.Authorize == nil || slices.Contains(u.Groups, groupMasters) {
		return true, ""
	}
	return s.Authorize(ctx, u, a)
}

// htmlSafe keeps error messages from looking like HTML to a browser, as Kubernetes does.
var htmlSafe = strings.NewReplacer(`&`, "&amp;", `<`, "&lt;", `>`, "&gt;")

func (a Attributes) forbidden(u User) string {
	if a.Resource == "" {
		return fmt.Sprintf("User %q cannot %s path %q", u.Name, a.Verb, a.Path)
	}
	res := a.Resource
	if a.Subresource != "" {
		res += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", u.Name, a.Verb, res, a.Group, where)
}

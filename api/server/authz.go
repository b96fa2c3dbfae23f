package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	if s.Authorize == nil || slices.Contains(u.Groups, groupMasters) || slices.Contains(u.Groups, groupAuthenticated) && isBasic(a) {
		return true, ""
	}
	return s.Authorize(ctx, u, a)
}

// isBasic says whether something is everybody's right who was authenticated, as Kubernetes' roles system:discovery and
// system:basic-user give it: to see what the server offers, and to ask about oneself.
func isBasic(a Attributes) bool {
	if a.Resource == "" {
		root, _, _ := strings.Cut(strings.TrimPrefix(a.Path, "/"), "/")
		return a.Verb == "get" && (root == "api" || root == "apis" || root == "openapi" || root == "version" || slices.Contains(healthKinds, root))
	}
	return a.Verb == "create" && (a.Group == authzV1.Group && (a.Resource == "selfsubjectaccessreviews" || a.Resource == "selfsubjectrulesreviews") ||
		a.Group == authnV1.Group && a.Resource == "selfsubjectreviews")
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

package server

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/resource"
)

// serveResource answers a request for a resource, authorized.
func (s *Server) serveResource(rq *request) error {
	if rq.res != nil && rq.gv != rq.res.Storage {
		rq.req = rq.req.WithContext(resource.WithVersion(rq.req.Context(), rq.gv)) // some rules differ by version
	}
	if rq.res != nil {
		rq.warn(rq.res.Deprecated(rq.gv))
	}
	switch {
	case isReview(rq.target):
		return s.review(rq)
	case rq.res == nil:
		return errNotFoundPath()
	case rq.isConnection():
		return s.connect(rq)
	case rq.subresource == "scale":
		return s.scale(rq)
	case rq.subresource != "":
		return s.serveSubresource(rq)
	}
	if !slices.Contains(rq.res.Verbs, rq.verb) {
		return errMethod(rq.req.Method)
	}
	switch rq.verb {
	case "get":
		return s.get(rq)
	case "list":
		return s.list(rq)
	case "watch":
		defer s.metrics.long(rq)()
		return s.watchEvents(rq)
	case "create":
		return s.create(rq)
	case "update":
		return s.update(rq)
	case "patch":
		return s.patch(rq)
	case "delete":
		return s.remove(rq)
	case "deletecollection":
		return s.removeCollection(rq)
	}
	return errMethod(rq.req.Method)
}

// serveSubresource answers for subresources that are parts of the object (status and the like) or verbs (binding,
// eviction, token, rollback).
func (s *Server) serveSubresource(rq *request) error {
	if !slices.Contains(rq.sub.Verbs, rq.verb) {
		return errMethod(rq.req.Method)
	}
	if rq.sub.Kind != rq.kind() {
		if rq.verb != "create" {
			return errMethod(rq.req.Method)
		}
		return s.act(rq)
	}
	switch rq.verb {
	case "get":
		return s.get(rq)
	case "update":
		return s.update(rq)
	case "patch":
		return s.patch(rq)
	}
	return errMethod(rq.req.Method)
}

// connect hands the connection over.
func (s *Server) connect(rq *request) error {
	if s.Connector == nil {
		return errNotFoundPath()
	}
	defer s.metrics.long(rq)()
	return s.Connector.Connect(rq.out, rq.req.WithContext(withUser(rq.req.Context(), rq.user)), rq.res, rq.subresource, rq.namespace, rq.name, rq.rest)
}

// isApply says whether a patch is a server-side apply.
func isApply(t types.PatchType) bool { return t == types.ApplyYAMLPatchType }

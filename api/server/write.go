package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
)

// create adds an object.
func (s *Server) create(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	data, err := rq.body()
	if err != nil {
		return err
	}
	o, err := rq.createOptions()
	if err != nil {
		return err
	}
	obj, err := rq.decodeObject(data, o.validation)
	if err != nil {
		return err
	}
	// Only the system sets these.
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetUID("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	// Fields are owned by nobody until somebody applies; see fieldmanager.go.
	obj.SetManagedFields(nil)
	if err := fitNamespace(rq, obj); err != nil {
		return err
	}
	rq.dedupOwners(obj)
	made, err := s.Backend.Create(rq.req.Context(), rq.res, rq.namespace, obj, o.WriteOptions)
	if err != nil {
		return err
	}
	return s.writeResult(rq, acc, http.StatusCreated, made)
}

// decodeObject reads an object of the kind that the path speaks of, in the served version, into the storage version.
func (rq *request) decodeObject(data []byte, validation string) (resource.Object, error) {
	obj, err := rq.decodeBody(data, rq.kind(), validation)
	if err != nil {
		return nil, err
	}
	return rq.s.Table.ToStorage(obj)
}

// fitNamespace gives the object the namespace of the path, or refuses another one.
func fitNamespace(rq *request, obj metav1.Object) error {
	switch {
	case !rq.res.Namespaced:
		obj.SetNamespace("")
	case obj.GetNamespace() == "":
		obj.SetNamespace(rq.namespace)
	case obj.GetNamespace() != rq.namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// fitName refuses an object that is not the path's.
func fitName(rq *request, obj metav1.Object) error {
	if obj.GetName() != rq.name {
		if obj.GetName() == "" {
			return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", rq.name))
		}
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), rq.name))
	}
	return fitNamespace(rq, obj)
}

// dedupOwners drops repeated owner references, with a warning in Kubernetes' words.
func (rq *request) dedupOwners(obj metav1.Object) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var twice []string
	for _, ref := range refs {
		if slices.ContainsFunc(kept, func(k metav1.OwnerReference) bool { return sameOwner(k, ref) }) {
			twice = append(twice, string(ref.UID))
			continue
		}
		kept = append(kept, ref)
	}
	if len(twice) == 0 {
		return
	}
	obj.SetOwnerReferences(kept)
	rq.warn(fmt.Sprintf(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %s", strings.Join(twice, ", ")))
}

func sameOwner(a, b metav1.OwnerReference) bool {
	is := func(p *bool) bool { return p != nil && *p }
	return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion &&
		is(a.Controller) == is(b.Controller) && is(a.BlockOwnerDeletion) == is(b.BlockOwnerDeletion)
}

// update replaces an object or one of its subresources.
func (s *Server) update(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	data, err := rq.body()
	if err != nil {
		return err
	}
	o, err := rq.updateOptions()
	if err != nil {
		return err
	}
	obj, err := rq.decodeObject(data, o.validation)
	if err != nil {
		return err
	}
	if err := fitName(rq, obj); err != nil {
		return err
	}
	rq.dedupOwners(obj)
	uo := UpdateOptions{WriteOptions: o.WriteOptions, CreateOnUpdate: rq.subresource == "" && rq.res.Rules().AllowCreateOnUpdate}
	out, created, err := s.Backend.Update(rq.req.Context(), rq.res, rq.subresource, rq.namespace, rq.name, uo,
		func(current resource.Object) (resource.Object, error) {
			if current == nil && obj.GetUID() != "" {
				return nil, rq.errUID(obj)
			}
			// The backend may ask again after a conflict: each time it gets an object of its own.
			next := obj.DeepCopyObject().(resource.Object)
			if current == nil {
				next.SetManagedFields(nil)
				return next, s.mayCreate(rq)
			}
			return s.managers.track(rq, current, next, o.manager)
		})
	if err != nil {
		return err
	}
	return s.writeResult(rq, acc, createdCode(created), out)
}

// errUID refuses to make an object anew under a UID that somebody remembers.
func (rq *request) errUID(obj metav1.Object) error {
	return apierrors.NewConflict(rq.res.GroupResource(), rq.name,
		fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", obj.GetUID()))
}

// mayCreate asks for the right to create when an update or patch would make the object.
func (s *Server) mayCreate(rq *request) error {
	return s.authorize(rq.req.Context(), rq.user, Attributes{Verb: "create", Group: rq.gv.Group, Version: rq.gv.Version,
		Resource: rq.target.resource, Subresource: rq.subresource, Namespace: rq.namespace, Name: rq.name})
}

func createdCode(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// remove deletes one object.
func (s *Server) remove(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	o, err := rq.deleteOptions()
	if err != nil {
		return err
	}
	obj, done, err := s.Backend.Delete(rq.req.Context(), rq.res, rq.namespace, rq.name, rq.backendDelete(o))
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !done && o.OrphanDependents != nil && !*o.OrphanDependents {
		code = http.StatusAccepted
	}
	// Kubernetes answers with the object where it stays for a while (pods, namespaces, finalizers) or where clients have
	// always got it, else with a Status.
	if obj != nil && (!done || rq.res.Rules().GraceSeconds != nil) {
		return s.writeResult(rq, acc, code, obj)
	}
	st := &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: rq.name, Group: rq.res.Storage.Group, Kind: rq.res.Name}}
	if obj != nil {
		st.Details.UID = obj.GetUID()
	}
	return s.writeObject(rq, accept{format: acc.format, pretty: acc.pretty}, code, st)
}

// removeCollection deletes what the options select, and answers with the list of it.
func (s *Server) removeCollection(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	q, err := rq.listQuery()
	if err != nil {
		return err
	}
	o, err := rq.deleteOptions()
	if err != nil {
		return err
	}
	items, err := s.Backend.DeleteCollection(rq.req.Context(), rq.res, q, rq.backendDelete(o))
	if err != nil {
		return err
	}
	return s.writeList(rq, acc, http.StatusOK, &ListResult{Items: items})
}

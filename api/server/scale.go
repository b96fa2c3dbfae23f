package server

import (
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/whalepod/whalepod/api/resource"
)

// scale reads and sets replicas through the Scale of autoscaling/v1, or of the old groups for old clients.
func (s *Server) scale(rq *request) error {
	if !rq.res.CanScale() || !slices.Contains(rq.sub.Verbs, rq.verb) {
		return errMethod(rq.req.Method)
	}
	acc, err := mustNegotiate(rq.req, objectForms)
	if err != nil {
		return err
	}
	switch rq.verb {
	case "get":
		obj, err := s.Backend.Get(rq.req.Context(), rq.res, rq.namespace, rq.name, rq.query.Get("resourceVersion"))
		if err != nil {
			return err
		}
		return s.writeScale(rq, acc, http.StatusOK, obj)
	case "update":
		return s.updateScale(rq, acc)
	case "patch":
		return s.patchScale(rq, acc)
	}
	return errMethod(rq.req.Method)
}

func (s *Server) writeScale(rq *request, acc accept, code int, obj resource.Object) error {
	sc, err := rq.scaleOf(obj)
	if err != nil {
		return err
	}
	if acc.isTable() {
		o, err := rq.tableOptions()
		if err != nil {
			return err
		}
		table, err := s.Table.ScaleTable(sc, o)
		if err != nil {
			return err
		}
		stampTable(table, acc.as.GroupVersion(), sc.GetObjectKind().GroupVersionKind())
		return s.writeObject(rq, acc, code, table)
	}
	if acc.isPartial() {
		m, ok := sc.(metav1.Object)
		if !ok {
			return fmt.Errorf("%T has no metadata", sc)
		}
		return s.writeObject(rq, acc, code, asPartial(m, acc.as.GroupVersion()))
	}
	return s.writeObject(rq, acc, code, sc)
}

// scaleOf makes the Scale of an object, of the kind that the served version offers.
func (rq *request) scaleOf(obj resource.Object) (runtime.Object, error) {
	return rq.s.Table.Scale(rq.res, obj, rq.gv)
}

// rescaled sets an object's replicas from a Scale, whose UID and resourceVersion are preconditions.
func (rq *request) rescaled(current resource.Object, sc runtime.Object) (resource.Object, error) {
	want, err := rq.s.Table.ReadScale(sc)
	if err != nil {
		return nil, err
	}
	if err := fitName(rq, want); err != nil {
		return nil, err
	}
	if want.UID != "" && want.UID != current.GetUID() {
		return nil, apierrors.NewConflict(rq.res.GroupResource(), rq.name,
			//lint:ignore ST1005 Kubernetes' words
			fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", want.UID, current.GetUID()))
	}
	// The backend compares it with the current one; none means whatever is there.
	if want.ResourceVersion != "" {
		current.SetResourceVersion(want.ResourceVersion)
	}
	return current, rq.res.SetScale(current, rq.gv, want.Replicas)
}

// asScale is how others see what is written here.
func (rq *request) asScale() *Facet { return &Facet{"scale", rq.scaleOf, rq.rescaled} }

func (s *Server) updateScale(rq *request, acc accept) error {
	data, err := rq.body()
	if err != nil {
		return err
	}
	o, err := rq.updateOptions()
	if err != nil {
		return err
	}
	sc, err := rq.decodeBody(data, rq.sub.Kind, o.validation)
	if err != nil {
		return err
	}
	return s.storeScale(rq, acc, o, func(current resource.Object) (resource.Object, error) { return rq.rescaled(current, sc) })
}

// storeScale writes through the main resource: the scale has no state of its own.
func (s *Server) storeScale(rq *request, acc accept, o writeOptions, change func(resource.Object) (resource.Object, error)) error {
	obj, _, err := s.Backend.Update(rq.req.Context(), rq.res, "", rq.namespace, rq.name, UpdateOptions{WriteOptions: o.WriteOptions, As: rq.asScale()},
		func(current resource.Object) (resource.Object, error) {
			if current == nil {
				return nil, apierrors.NewNotFound(rq.res.GroupResource(), rq.name)
			}
			next, err := change(current.DeepCopyObject().(resource.Object))
			if err != nil {
				return nil, err
			}
			return s.managers.track(rq, current, next, o.manager)
		})
	if err != nil {
		return err
	}
	return s.writeScale(rq, acc, http.StatusOK, obj)
}

func (s *Server) patchScale(rq *request, acc accept) error {
	p, force, err := rq.newPatcher()
	if err != nil {
		return err
	}
	p.kind = rq.sub.Kind
	if isApply(p.typ) {
		return s.applyScale(rq, acc, p, force)
	}
	return s.storeScale(rq, acc, p.o, func(current resource.Object) (resource.Object, error) {
		sc, err := rq.scaleOf(current)
		if err != nil {
			return nil, err
		}
		if sc, err = p.patched(sc); err != nil {
			return nil, err
		}
		return rq.rescaled(current, sc)
	})
}

// applyScale applies replicas alone to the object itself, as the scale subresource's manager.
func (s *Server) applyScale(rq *request, acc accept, p *patcher, force bool) error {
	var in struct {
		APIVersion, Kind string
		Metadata         map[string]any
		Spec             map[string]any
	}
	if err := yaml.Unmarshal(p.data, &in); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if api, kind := rq.sub.Kind.ToAPIVersionAndKind(); in.Kind != kind || in.APIVersion != api {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid object type: %s, Kind=%s, expected %s, Kind=%s", in.APIVersion, in.Kind, api, kind))
	}
	api, kind := rq.kind().ToAPIVersionAndKind()
	parent := map[string]any{"apiVersion": api, "kind": kind, "metadata": map[string]any{"name": rq.name, "namespace": rq.namespace}}
	if v, ok := in.Spec["replicas"]; ok {
		parent["spec"] = map[string]any{"replicas": v}
	}
	data, err := yaml.Marshal(parent)
	if err != nil {
		return err
	}
	p.data = data
	obj, _, err := s.Backend.Update(rq.req.Context(), rq.res, "", rq.namespace, rq.name, UpdateOptions{WriteOptions: p.o.WriteOptions, As: rq.asScale()},
		func(current resource.Object) (resource.Object, error) { return p.apply(current, force) })
	if err != nil {
		return err
	}
	return s.writeScale(rq, acc, http.StatusOK, obj)
}

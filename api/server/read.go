package server

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1beta1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
)

// get answers one object.
func (s *Server) get(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	o := &metav1.GetOptions{}
	if err := rq.params(o); err != nil {
		return err
	}
	obj, err := s.Backend.Get(rq.req.Context(), rq.res, rq.namespace, rq.name, o.ResourceVersion)
	if err != nil {
		return err
	}
	return s.writeResult(rq, acc, http.StatusOK, obj)
}

// writeResult answers with one object of the backend in the form that the client asked for.
func (s *Server) writeResult(rq *request, acc accept, code int, obj resource.Object) error {
	switch {
	case acc.isTable():
		return s.writeList(rq, acc, code, &ListResult{Items: []resource.Object{obj}, ResourceVersion: obj.GetResourceVersion()})
	case acc.as != nil && acc.as.Kind == "PartialObjectMetadataList":
		return errMedia(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"you requested PartialObjectMetadataList, but the requested object is not a list (%T)", obj)
	case acc.isPartial():
		return s.writeObject(rq, acc, code, asPartial(obj, acc.as.GroupVersion()))
	}
	out, err := s.versioned(rq.res, obj, rq.gv)
	if err != nil {
		return err
	}
	return s.writeObject(rq, acc, code, out)
}

// list answers a page of objects.
func (s *Server) list(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	if acc.as != nil && acc.as.Kind == "PartialObjectMetadata" {
		return errMedia(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"you requested PartialObjectMetadata, but the requested object is a list (*%s.%s)", rq.gv.Version, rq.res.ListKind)
	}
	q, err := rq.listQuery()
	if err != nil {
		return err
	}
	res, err := s.Backend.List(rq.req.Context(), rq.res, q)
	if err != nil {
		return err
	}
	return s.writeList(rq, acc, http.StatusOK, res)
}

func (rq *request) listQuery() (ListQuery, error) {
	o, err := rq.listOptions()
	if err != nil {
		return ListQuery{}, err
	}
	return ListQuery{Namespace: rq.namespace, Labels: o.LabelSelector, Fields: o.FieldSelector, Limit: o.Limit, Continue: o.Continue,
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch}, nil
}

// tableOptions reads what a client wants beside the cells of a Table.
func (rq *request) tableOptions() (resource.TableOptions, error) {
	o := &metav1.TableOptions{}
	if err := metascheme.ParameterCodec.DecodeParameters(rq.query, metav1.SchemeGroupVersion, o); err != nil {
		return resource.TableOptions{}, apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidateTableOptions(o); len(errs) > 0 {
		return resource.TableOptions{}, apierrors.NewBadRequest("Unable to convert to Table as requested: " + errs.ToAggregate().Error())
	}
	return resource.TableOptions{IncludeObject: o.IncludeObject, GroupVersion: rq.gv}, nil
}

// table makes the rows of some objects, with the metadata version that the client asked for.
func (s *Server) table(rq *request, acc accept, o resource.TableOptions, objs []resource.Object) (*metav1.Table, error) {
	if o.IncludeObject == metav1.IncludeObject && rq.gv == rq.res.Storage && !rq.res.IsCustom() {
		o.GroupVersion = schema.GroupVersion{} // as is; stamped below
	}
	t, err := s.Table.Table(rq.res, objs, o)
	if err != nil {
		return nil, err
	}
	stampTable(t, acc.as.GroupVersion(), rq.kind())
	return t, nil
}

// stampTable gives a Table and the metadata in it the version that the client asked for, and whole objects their kind.
func stampTable(t *metav1.Table, gv schema.GroupVersion, kind schema.GroupVersionKind) {
	t.SetGroupVersionKind(gv.WithKind("Table"))
	for i := range t.Rows {
		switch obj := t.Rows[i].Object.Object.(type) {
		case nil:
		case *metav1.PartialObjectMetadata:
			obj.SetGroupVersionKind(gv.WithKind("PartialObjectMetadata"))
		case runtime.Object:
			t.Rows[i].Object.Object = stamped(obj, kind)
		}
	}
}

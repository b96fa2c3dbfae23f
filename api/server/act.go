package server

import (
	"net/http"

	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// act performs a subresource that is a verb.
func (s *Server) act(rq *request) error {
	acc, err := mustNegotiate(rq.req, metadataForms)
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
	body, err := rq.decodeBody(data, rq.actKind(data), o.validation)
	if err != nil {
		return err
	}
	if e, ok := body.(*policyv1beta1.Eviction); ok {
		body = &policyv1.Eviction{ObjectMeta: e.ObjectMeta, DeleteOptions: e.DeleteOptions}
	}
	if m, ok := body.(metav1.Object); ok {
		if m.GetName() != "" && rq.name != "" && m.GetName() != rq.name {
			return fitName(rq, m)
		}
		if rq.name == "" {
			// POST of a Binding to .../bindings names its pod in the body.
			if rq.name = m.GetName(); rq.name == "" {
				return apierrors.NewBadRequest("name is required")
			}
		}
		m.SetName(rq.name)
		if err := fitNamespace(rq, m); err != nil {
			return err
		}
	}
	out, err := s.Backend.Act(rq.req.Context(), rq.res, rq.subresource, rq.namespace, rq.name, body, o.WriteOptions)
	if err != nil {
		return err
	}
	return s.writeActed(rq, acc, out)
}

func (s *Server) writeActed(rq *request, acc accept, out runtime.Object) error {
	plain := accept{format: acc.format, pretty: acc.pretty}
	switch obj := out.(type) {
	case nil:
		return s.writeObject(rq, plain, http.StatusCreated, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: metav1.StatusSuccess, Code: http.StatusCreated})
	case *metav1.Status:
		st := *obj
		st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		if st.Code == 0 {
			st.Code = http.StatusCreated
		}
		return s.writeObject(rq, plain, http.StatusCreated, &st)
	default:
		if m, ok := obj.(metav1.Object); ok && acc.isPartial() {
			return s.writeObject(rq, acc, http.StatusCreated, asPartial(m, acc.as.GroupVersion()))
		}
		return s.writeObject(rq, plain, http.StatusCreated, stamped(out, rq.sub.Kind))
	}
}

// actKind is the kind of the body: that of the subresource, but old clients still send an Eviction of policy/v1beta1.
func (rq *request) actKind(data []byte) schema.GroupVersionKind {
	kind := rq.sub.Kind
	if rq.subresource != "eviction" {
		return kind
	}
	beta := schema.GroupVersionKind{Group: "policy", Version: "v1beta1", Kind: "Eviction"}
	f, err := bodyFormat(rq.req.Header.Get("Content-Type"))
	if err != nil || !rq.s.codecs.scheme.Recognizes(beta) {
		return kind
	}
	var tm metav1.TypeMeta
	if f == formatProtobuf {
		var env runtime.Unknown
		if len(data) > len(protoMagic) && env.Unmarshal(data[len(protoMagic):]) == nil {
			tm.APIVersion = env.APIVersion
		}
	} else if unmarshalLoose(f, data, &tm) != nil {
		return kind
	}
	if tm.APIVersion == beta.GroupVersion().String() {
		return beta
	}
	return kind
}

// resolveBinding makes POST .../namespaces/NS/bindings the binding of the pod that the body names.
func (s *Server) resolveBinding(rq *request) error {
	var ok bool
	if rq.res, ok = s.Table.Lookup(rq.gv, "pods"); !ok || rq.name != "" {
		return errNotFoundPath()
	}
	if rq.req.Method != http.MethodPost || rq.namespace == "" {
		return errMethod(rq.req.Method)
	}
	rq.subresource, rq.verb = "binding", "create"
	if rq.sub, ok = rq.res.SubresourceIn(rq.gv, "binding"); !ok {
		return errNotFoundPath()
	}
	return nil
}

package admission

import (
	"net/http"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// Connector asks webhooks before it lets somebody connect to a pod, a node or a Service.
type Connector struct {
	server.Connector
	b *Backend
}

// NewConnector puts the webhooks of a backend before a connector.
func NewConnector(c server.Connector, b *Backend) *Connector { return &Connector{c, b} }

// Connect implements server.Connector. Reading a log is no connection.
func (c *Connector) Connect(w http.ResponseWriter, req *http.Request, r *resource.Resource, sub, namespace, name, path string) error {
	hs := c.b.current()
	if sub == "log" || hs.none(r) {
		return c.Connector.Connect(w, req, r, sub, namespace, name, path)
	}
	o := server.WriteOptions{User: server.UserOf(req.Context()), Warn: func(string) {}}
	a := newAttributes(req.Context(), admissionv1.Connect, r, sub, namespace, name, &o)
	a.fixed, a.immutable = true, true
	if hs.concerns(a) {
		a.object = c.options(req, r, sub, a)
		if err := c.b.askBoth(req.Context(), hs, a); err != nil {
			return err
		}
	}
	return c.Connector.Connect(w, req, r, sub, namespace, name, path)
}

// options are what the query says, in the kind that the subresource has for that; nil when it cannot be read.
func (c *Connector) options(req *http.Request, r *resource.Resource, sub string, a *attributes) runtime.Object {
	kind, ok := r.SubresourceIn(a.gv, sub)
	if !ok {
		return nil
	}
	out, err := c.b.cfg.Table.NewServed(kind.Kind)
	if err != nil {
		return nil
	}
	if err := runtime.NewParameterCodec(c.b.cfg.Table.Scheme()).DecodeParameters(req.URL.Query(), kind.Kind.GroupVersion(), out); err != nil {
		return nil
	}
	out.GetObjectKind().SetGroupVersionKind(kind.Kind)
	return out
}

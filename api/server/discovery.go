package server

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
)

// discoveryCache keeps the aggregated documents encoded: every kubectl asks for both at its start.
type discoveryCache struct {
	mu sync.Mutex
	// of are the Stamp of the table that the documents are about, and that of the versions that others serve.
	of   [2]any
	docs map[string]discoveryDoc
}

type discoveryDoc struct {
	data []byte
	etag string
}

// groupVersions are those of the table and of the reviews.
func (s *Server) groupVersions() []schema.GroupVersion {
	gvs := slices.Clone(s.Table.GroupVersions())
	for _, gv := range reviewGroups {
		if !slices.Contains(gvs, gv) {
			gvs = append(gvs, gv)
		}
	}
	all, _ := s.externals()
	for _, e := range all {
		if !slices.Contains(gvs, e.GroupVersion) {
			gvs = append(gvs, e.GroupVersion)
		}
	}
	return gvs
}

// groups in order, without the core group.
func (s *Server) groups() []metav1.APIGroup {
	var out []metav1.APIGroup
	for _, gv := range s.groupVersions() {
		if gv.Group == "" {
			continue
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		i := slices.IndexFunc(out, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if i < 0 {
			out = append(out, metav1.APIGroup{Name: gv.Group, PreferredVersion: v})
			i = len(out) - 1
		}
		out[i].Versions = append(out[i].Versions, v)
	}
	return out
}

// resources of a version, sorted as Kubernetes sorts them.
func (s *Server) resources(gv schema.GroupVersion) []metav1.APIResource {
	if e, ok := s.external(gv); ok {
		return e.Resources
	}
	var out []metav1.APIResource
	for _, r := range s.Table.Served() {
		if !slices.Contains(r.Served, gv) {
			continue
		}
		a := metav1.APIResource{Name: r.Name, SingularName: r.Singular, Namespaced: r.Namespaced, Kind: r.Kind,
			Verbs: r.Verbs, StorageVersionHash: storageHash(r)}
		// The same objects under another group are for old manifests: with short names and categories there too, kubectl
		// warns that "deploy" is ambiguous and `get all` lists everything twice.
		if gv.Group == r.Storage.Group {
			a.ShortNames, a.Categories = r.ShortNames, r.Categories
		}
		out = append(out, a)
		for name, sub := range r.SubresourcesIn(gv) {
			a := metav1.APIResource{Name: r.Name + "/" + name, Namespaced: r.Namespaced, Kind: sub.Kind.Kind, Verbs: sub.Verbs}
			if sub.Kind.GroupVersion() != gv {
				a.Group, a.Version = sub.Kind.Group, sub.Kind.Version
			}
			out = append(out, a)
		}
	}
	if gv == (schema.GroupVersion{Version: "v1"}) {
		out = append(out, metav1.APIResource{Name: "bindings", SingularName: "binding", Namespaced: true, Kind: "Binding", Verbs: metav1.Verbs{"create"}})
	}
	out = append(out, reviewResources(gv)...)
	slices.SortFunc(out, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// storageHash is as opaque as Kubernetes', and changes with the storage version alone.
func storageHash(r *resource.Resource) string {
	if r.Computed {
		return ""
	}
	sum := sha512.Sum512([]byte(r.Storage.Group + "/" + r.Storage.Version + "/" + r.Kind))
	return fmt.Sprintf("%x", sum[:8])
}

// serveDiscovery answers below /api and /apis.
func (s *Server) serveDiscovery(rq *request, path string) error {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(parts) == 1:
		return s.serveGroupList(rq, parts[0])
	case parts[0] == "api" && len(parts) == 2:
		return s.serveResourceList(rq, schema.GroupVersion{Version: parts[1]})
	case parts[0] == "apis" && len(parts) == 2:
		for _, g := range s.groups() {
			if g.Name == parts[1] {
				g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return s.writeDocument(rq, &g)
			}
		}
	case parts[0] == "apis" && len(parts) == 3:
		return s.serveResourceList(rq, schema.GroupVersion{Group: parts[1], Version: parts[2]})
	}
	return errNotFoundPath()
}

func (s *Server) serveResourceList(rq *request, gv schema.GroupVersion) error {
	if !slices.Contains(s.groupVersions(), gv) {
		return errNotFoundPath()
	}
	return s.writeDocument(rq, &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: gv.String(), APIResources: s.resources(gv)})
}

func (s *Server) writeDocument(rq *request, obj runtime.Object) error {
	acc, err := mustNegotiate(rq.req, onlyPlain)
	if err != nil {
		return err
	}
	return s.writeObject(rq, acc, http.StatusOK, obj)
}

// serveGroupList answers /api and /apis, plain or with everything below them in one document.
func (s *Server) serveGroupList(rq *request, root string) error {
	acc, err := mustNegotiate(rq.req, discoveryForms)
	if err != nil {
		return err
	}
	rq.out.Header().Set("Vary", "Accept")
	if acc.as != nil {
		return s.serveAggregated(rq, acc, root)
	}
	if root == "api" {
		var versions []string
		for _, gv := range s.groupVersions() {
			if gv.Group == "" {
				versions = append(versions, gv.Version)
			}
		}
		return s.writeObject(rq, acc, http.StatusOK, &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: versions,
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: rq.req.Host}}})
	}
	return s.writeObject(rq, acc, http.StatusOK, &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: s.groups()})
}

const discoveryGroup = "apidiscovery.k8s.io"

// discoveryForms allows the plain documents and the aggregated ones of both versions.
func discoveryForms(f format, as *schema.GroupVersionKind, _ map[string]string) bool {
	return as == nil || f != formatYAML && as.Group == discoveryGroup && as.Kind == "APIGroupDiscoveryList" &&
		(as.Version == "v2" || as.Version == "v2beta1")
}

// serveAggregated answers with the aggregated document, or 304 when the client has it.
func (s *Server) serveAggregated(rq *request, acc accept, root string) error {
	doc, err := s.aggregatedDoc(acc, root)
	if err != nil {
		return err
	}
	h := rq.out.Header()
	h.Set("ETag", strconv.Quote(doc.etag))
	h.Set("Cache-Control", "public")
	if etagMatches(rq.req, doc.etag) {
		rq.out.WriteHeader(http.StatusNotModified)
		return nil
	}
	ct := acc.format.mediaType() + ";g=" + discoveryGroup + ";v=" + acc.as.Version + ";as=APIGroupDiscoveryList"
	a := newAnswer(rq, http.StatusOK, ct)
	_, _ = a.Write(doc.data)
	_ = a.close()
	return nil
}

func (s *Server) aggregatedDoc(acc accept, root string) (discoveryDoc, error) {
	key := fmt.Sprint(root, acc.format, acc.pretty, acc.as.Version)
	s.discovery.mu.Lock()
	defer s.discovery.mu.Unlock()
	_, others := s.externals()
	if stamp := [2]any{s.Table.Stamp(), others}; s.discovery.of != stamp {
		s.discovery.of, s.discovery.docs = stamp, nil
	}
	if doc, ok := s.discovery.docs[key]; ok {
		return doc, nil
	}
	list := s.aggregated(root)
	list.TypeMeta = metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: discoveryGroup + "/" + acc.as.Version}
	var obj runtime.Object = list
	buf := getBuffer()
	defer putBuffer(buf)
	if acc.as.Version == "v2beta1" && acc.format == formatProtobuf {
		// Both versions have the same fields; only the Go types differ.
		data, err := list.Marshal()
		if err != nil {
			return discoveryDoc{}, err
		}
		beta := &apidiscoveryv2beta1.APIGroupDiscoveryList{}
		if err := beta.Unmarshal(data); err != nil {
			return discoveryDoc{}, err
		}
		beta.TypeMeta = list.TypeMeta
		obj = beta
	}
	if err := encode(buf, acc.format, acc.pretty, obj); err != nil {
		return discoveryDoc{}, err
	}
	sum := sha512.Sum512(buf.Bytes())
	doc := discoveryDoc{data: slices.Clone(buf.Bytes()), etag: fmt.Sprintf("%X", sum)}
	if s.discovery.docs == nil {
		s.discovery.docs = map[string]discoveryDoc{}
	}
	s.discovery.docs[key] = doc
	return doc, nil
}

// aggregated is everything under /api or /apis.
func (s *Server) aggregated(root string) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, gv := range s.groupVersions() {
		if (gv.Group == "") != (root == "api") {
			continue
		}
		i := slices.IndexFunc(list.Items, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == gv.Group })
		if i < 0 {
			list.Items = append(list.Items, apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: gv.Group}})
			i = len(list.Items) - 1
		}
		list.Items[i].Versions = append(list.Items[i].Versions, s.aggregatedVersion(gv))
	}
	return list
}

func (s *Server) aggregatedVersion(gv schema.GroupVersion) apidiscoveryv2.APIVersionDiscovery {
	v := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	if e, ok := s.external(gv); ok && e.Stale {
		v.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
	}
	at := map[string]int{}
	for _, r := range s.resources(gv) {
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		main, sub, isSub := strings.Cut(r.Name, "/")
		if !isSub {
			scope := apidiscoveryv2.ScopeCluster
			if r.Namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			at[main] = len(v.Resources)
			v.Resources = append(v.Resources, apidiscoveryv2.APIResourceDiscovery{Resource: r.Name, ResponseKind: kind, Scope: scope,
				SingularResource: r.SingularName, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories})
			continue
		}
		// Names sort before their subresources, so the main one is there, unless another server forgot it.
		i, ok := at[main]
		if !ok {
			continue
		}
		v.Resources[i].Subresources = append(v.Resources[i].Subresources,
			apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
	}
	return v
}

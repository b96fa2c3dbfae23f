// Package registry holds the cluster's objects by Kubernetes' rules: names, UIDs, resourceVersions, generations,
// finalizers, graceful deletion, defaults, validation and allocation, on top of the store. It implements the API
// server's Backend, and gives controllers typed, transactional access. Nobody else writes the store.
package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/store"
)

// What controllers need of the store's vocabulary.
type (
	Object = store.Object
	Key    = store.Key
	Event  = store.Event
)

// Config of a registry.
type Config struct {
	Table *resource.Table
	// ServiceCIDR is the range of ClusterIPs.
	ServiceCIDR netip.Prefix
	// NodePortFirst and NodePortLast bound the ports of NodePort Services, both included.
	NodePortFirst, NodePortLast int32
	// NotReadySeconds and UnreachableSeconds are how long a pod stays bound to a node that is not ready, or not reachable, when
	// it says nothing about that itself.
	NotReadySeconds, UnreachableSeconds int64
	// Signer makes service account tokens; may be nil.
	Signer TokenSigner
	Logger *slog.Logger
}

// Registry implements server.Backend and is what controllers and sessions read and write through.
type Registry struct {
	cfg    Config
	store  store.Store
	byType map[reflect.Type]*resource.Resource
	log    *slog.Logger
	events *recorder
}

var _ server.Backend = (*Registry)(nil)

// New makes a registry on a store that was opened with Schema(cfg.Table).
func New(s store.Store, cfg Config) *Registry {
	r := &Registry{cfg: cfg, store: s, byType: map[reflect.Type]*resource.Resource{}, log: cfg.Logger.With("component", "registry")}
	for _, res := range cfg.Table.All() {
		r.byType[reflect.TypeOf(res.New())] = res
	}
	r.events = newRecorder(r)
	return r
}

// Run owns the event recorder until ctx ends.
func (r *Registry) Run(ctx context.Context) error { return r.events.run(ctx) }

// Ready says whether writes can be served.
func (r *Registry) Ready() error { return r.store.Ready() }

// Names of the indexes.
const (
	// IndexNode: pods by spec.nodeName; Unbound for those without.
	IndexNode = "node"
	// IndexOwner: objects of every resource by the UIDs of their owners.
	IndexOwner = "owner"
	// IndexOrphan: objects that no controller owns by their namespace, of the kinds that controllers adopt.
	IndexOrphan = "orphan"
	// IndexClusterIP: Services by each of their cluster IPs.
	IndexClusterIP = "clusterIP"
	// IndexBalancerIP: Services of type LoadBalancer by the addresses in their status.
	IndexBalancerIP = "balancerIP"
	// IndexNodePort: Services by their node ports, in decimal.
	IndexNodePort = "nodePort"
	// IndexService: EndpointSlices by the Service that their label names, as ServiceValue says it.
	IndexService = "service"
	// Unbound is the value of IndexNode for pods that no node has been chosen for.
	Unbound = "<none>"
)

// Schema tells a store about the served kinds.
func Schema(t *resource.Table) store.Schema {
	s := store.Schema{
		Codec:   storageCodec{t},
		Indexes: map[string]map[string]store.Index{},
		// Of custom kinds.
		OtherIndexes: map[string]store.Index{IndexOwner: ownerUIDs},
		Volatile:     map[string]bool{"events": true, "leases.coordination.k8s.io": true},
		Share:        map[string]func(old, object store.Object){"pods": new(podTemplates).share},
	}
	for _, res := range t.All() {
		s.Indexes[res.Key()] = map[string]store.Index{IndexOwner: ownerUIDs}
	}
	for _, adopted := range []string{"pods", "replicasets.apps", "controllerrevisions.apps"} {
		s.Indexes[adopted][IndexOrphan] = orphanIn
	}
	s.Indexes["pods"][IndexNode] = func(o store.Object) []string {
		if n := o.(*corev1.Pod).Spec.NodeName; n != "" {
			return []string{n}
		}
		return []string{Unbound}
	}
	s.Indexes["endpointslices.discovery.k8s.io"][IndexService] = func(o store.Object) []string {
		if name := o.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
			return []string{ServiceValue(o.GetNamespace(), name)}
		}
		return nil
	}
	s.Indexes["services"][IndexClusterIP] = func(o store.Object) []string { return allocatedIPs(o.(*corev1.Service)) }
	s.Indexes["services"][IndexBalancerIP] = func(o store.Object) []string { return balancerIPs(o.(*corev1.Service)) }
	s.Indexes["services"][IndexNodePort] = func(o store.Object) []string { return allocatedPorts(o.(*corev1.Service)) }
	return s
}

// ServiceValue is the value of IndexService for the slices of a Service.
func ServiceValue(namespace, name string) string { return namespace + "/" + name }

func ownerUIDs(o store.Object) []string {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	uids := make([]string, 0, len(refs))
	for _, ref := range refs {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

func orphanIn(o store.Object) []string {
	if metav1.GetControllerOfNoCopy(o) != nil {
		return nil
	}
	return []string{o.GetNamespace()}
}

// storageCodec bends the table's codec to the store's interface.
type storageCodec struct{ t *resource.Table }

func (c storageCodec) Encode(res string, o store.Object) ([]byte, error) {
	return c.t.StorageCodec().Encode(res, o)
}

func (c storageCodec) Decode(res string, data []byte) (store.Object, error) {
	o, err := c.t.StorageCodec().Decode(res, data)
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (r *Registry) resourceOf(o Object) (*resource.Resource, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return r.customResourceOf(u)
	}
	res, ok := r.byType[reflect.TypeOf(o)]
	if !ok {
		return nil, fmt.Errorf("no resource is served for objects of type %T", o)
	}
	return res, nil
}

func keyOf(res *resource.Resource, namespace, name string) Key {
	if !res.Namespaced {
		namespace = ""
	}
	return Key{Resource: res.Key(), Namespace: namespace, Name: name}
}

// parseRevision reads a resourceVersion, which is the store's revision in decimal.
func parseRevision(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// FormatRevision writes a revision as a resourceVersion.
func FormatRevision(rev int64) string { return strconv.FormatInt(rev, 10) }

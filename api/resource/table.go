package resource

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/kubernetes/pkg/printers/internalversion" // installs every group of Kubernetes into the scheme
	metricsinstall "k8s.io/metrics/pkg/apis/metrics/install"
)

// kinds lists every served kind; each is defined in a file of its own (kind_*.go). The order is that of Table.All.
var kinds = []func() *Resource{
	namespaces, nodes, pods, services, endpoints, configMaps, secrets, events, serviceAccounts,
	endpointSlices, leases,
	deployments, replicaSets, replicationControllers, statefulSets, controllerRevisions, jobs, cronJobs,
	daemonSets, podDisruptionBudgets,
	horizontalPodAutoscalers,
	roles, roleBindings, clusterRoles, clusterRoleBindings,
	podTemplates, priorityClasses, runtimeClasses,
	persistentVolumes, persistentVolumeClaims, storageClasses, volumeAttributesClasses, volumeAttachments,
	csiDrivers, csiNodes, csiStorageCapacities,
	limitRanges, resourceQuotas,
	deviceClasses, resourceClaims, resourceClaimTemplates, resourceSlices,
	customResourceDefinitions,
	ingresses, ingressClasses, networkPolicies, serviceCIDRs, ipAddresses, certificateSigningRequests,
	mutatingWebhookConfigurations, validatingWebhookConfigurations,
	validatingAdmissionPolicies, validatingAdmissionPolicyBindings, mutatingAdmissionPolicies, mutatingAdmissionPolicyBindings,
	apiServices,
}

// groupOrder is the order in which discovery offers groups; kubectl resolves a short name such as "deployments" to the
// first group that has it. Kubernetes put extensions before apps while it served both; here it is last, so that old
// manifests are accepted and answers speak of apps.
var groupOrder = []string{
	"", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch",
	"certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
	"admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
	"discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io", "extensions",
}

// Table is the set of served kinds: those of this package, which never change, and those that CustomResourceDefinitions add
// (SetCustom). It may be used by many goroutines.
type Table struct {
	scheme    *runtime.Scheme
	codecs    serializer.CodecFactory
	printer   *printers.HumanReadableGenerator
	storageOf map[string]storageKind
	builtin   *kindSet
	current   atomic.Pointer[kindSet]
	custom    customKinds
}

// kindSet is what is served at one time. It never changes once it is the table's.
type kindSet struct {
	// all are those that are stored; served has the computed ones, too.
	all, served []*Resource
	versions    []schema.GroupVersion
	byKey       map[string]*Resource
	byKind      map[schema.GroupVersionKind]*Resource
	byName      map[schema.GroupVersionResource]*Resource
	openAPI     customDocuments
}

func newKindSet() *kindSet {
	return &kindSet{
		byKey: map[string]*Resource{}, byKind: map[schema.GroupVersionKind]*Resource{}, byName: map[schema.GroupVersionResource]*Resource{},
	}
}

// addMetaTypes adds what a client may ask for instead of the object: Table and PartialObjectMetadata; and the group of
// CustomResourceDefinitions. Kubernetes keeps them out of this scheme and builds others; one is enough here. The scheme is the process's own, hence once.
var addMetaTypes = sync.OnceFunc(func() {
	utilruntime.Must(metav1.AddMetaToScheme(legacyscheme.Scheme))
	utilruntime.Must(metav1beta1.AddMetaToScheme(legacyscheme.Scheme))
	apiextensionsinstall.Install(legacyscheme.Scheme)
	metricsinstall.Install(legacyscheme.Scheme)
	apiregistrationinstall.Install(legacyscheme.Scheme)
})

// allowPrivileged is kube-apiserver's --allow-privileged, which validation asks of a setting for the whole process. Without
// it no privileged container passes; kubeadm and all distributions turn it on.
var allowPrivileged = sync.OnceFunc(func() { capabilities.Setup(true, 0) })

// NewTable makes the table of every kind served.
func NewTable() *Table {
	addMetaTypes()
	allowPrivileged()
	t := &Table{
		scheme:    legacyscheme.Scheme,
		codecs:    legacyscheme.Codecs,
		printer:   printers.NewTableGenerator().With(internalversion.AddHandlers, addPlainHandlers, addMetricsHandlers, addRegistrationHandlers),
		builtin:   newKindSet(),
		storageOf: map[string]storageKind{},
	}
	for _, kind := range kinds {
		r := kind()
		t.builtin.add(r)
		t.storageOf[r.Key()] = newStorageKind(r.GroupVersionKind())
	}
	t.builtin.all = slices.Clip(t.builtin.served)
	for _, kind := range computed {
		r := kind()
		t.builtin.add(r)
		t.storageOf[r.Key()] = newStorageKind(r.GroupVersionKind())
	}
	slices.SortStableFunc(t.builtin.versions, t.compareVersions)
	t.current.Store(t.builtin)
	return t
}

func (s *kindSet) add(r *Resource) {
	s.served = append(s.served, r)
	s.byKey[r.Key()] = r
	for _, gv := range r.Served {
		s.byKind[gv.WithKind(r.Kind)] = r
		s.byName[gv.WithResource(r.Name)] = r
		if !slices.Contains(s.versions, gv) {
			s.versions = append(s.versions, gv)
		}
	}
}

// compareVersions orders by group as groupOrder says (unknown ones at the end, by name), then by the scheme's own
// priority of versions.
func (t *Table) compareVersions(a, b schema.GroupVersion) int {
	if a.Group != b.Group {
		i, j := groupIndex(a.Group), groupIndex(b.Group)
		if i != j {
			return i - j
		}
		return strings.Compare(a.Group, b.Group)
	}
	order := t.scheme.PrioritizedVersionsForGroup(a.Group)
	i, j := slices.Index(order, a), slices.Index(order, b)
	if i < 0 || j < 0 { // of a custom kind: v1 before v1beta1
		return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
	}
	return i - j
}

func groupIndex(group string) int {
	if i := slices.Index(groupOrder, group); i >= 0 {
		return i
	}
	return len(groupOrder)
}

// Lookup finds the kind served under a plural, as in apps/v1 and "deployments".
func (t *Table) Lookup(gv schema.GroupVersion, plural string) (*Resource, bool) {
	r, ok := t.current.Load().byName[gv.WithResource(plural)]
	return r, ok
}

// ByKey finds a kind by its name in the store, as in "deployments.apps".
func (t *Table) ByKey(key string) (*Resource, bool) {
	r, ok := t.current.Load().byKey[key]
	return r, ok
}

// ByKind finds a kind by any of its served versions.
func (t *Table) ByKind(gvk schema.GroupVersionKind) (*Resource, bool) {
	r, ok := t.current.Load().byKind[gvk]
	return r, ok
}

// All kinds that are stored, custom ones last, always in the same order. The slice must not be changed.
func (t *Table) All() []*Resource { return t.current.Load().all }

// Served are all kinds, computed ones too.
func (t *Table) Served() []*Resource { return t.current.Load().served }

// GroupVersions served, preferred first. The slice must not be changed.
func (t *Table) GroupVersions() []schema.GroupVersion { return t.current.Load().versions }

// Builtin are the group versions that are served whatever CustomResourceDefinitions say. The slice must not be changed.
func (t *Table) Builtin() []schema.GroupVersion { return t.builtin.versions }

// Stamp is equal (==) as long as the same kinds are served in the same way.
func (t *Table) Stamp() any { return t.current.Load() }

// Scheme knows every type of Kubernetes, served here or not, and the meta types.
func (t *Table) Scheme() *runtime.Scheme { return t.scheme }

// Codecs of the scheme: JSON, YAML and protobuf.
func (t *Table) Codecs() serializer.CodecFactory { return t.codecs }

package apiservice

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// The label of APIServices that are kept automatically, and its values: once at the start for what is always served, at any
// time for custom kinds. People may change or delete one of the former, and change the label of any to have their way.
const (
	labelManaged = "kube-aggregator.kubernetes.io/automanaged"
	managedStart = "onstart"
	managedEver  = "true"
)

// metricsGroup is served by the master, but whoever installs metrics-server registers that instead, and has it until it is
// deleted.
const metricsGroup = "metrics.k8s.io"

type priority struct{ group, version int32 }

// priorities are kube-apiserver's, of groups and of versions within them (pkg/controlplane/apiserver and cmd/kube-apiserver/app,
// DefaultGenericAPIServicePriorities); those of versions no longer served are from its older releases.
var priorities = map[schema.GroupVersion]priority{
	{Version: "v1"}:                                        {18000, 1},
	{Group: "apps", Version: "v1"}:                         {17800, 15},
	{Group: "apps", Version: "v1beta2"}:                    {17800, 9},
	{Group: "apps", Version: "v1beta1"}:                    {17800, 1},
	{Group: "events.k8s.io", Version: "v1"}:                {17750, 15},
	{Group: "events.k8s.io", Version: "v1beta1"}:           {17750, 5},
	{Group: "authentication.k8s.io", Version: "v1"}:        {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:         {17600, 15},
	{Group: "autoscaling", Version: "v1"}:                  {17500, 15},
	{Group: "autoscaling", Version: "v2"}:                  {17500, 30},
	{Group: "autoscaling", Version: "v2beta1"}:             {17500, 9},
	{Group: "autoscaling", Version: "v2beta2"}:             {17500, 1},
	{Group: "batch", Version: "v1"}:                        {17400, 15},
	{Group: "batch", Version: "v1beta1"}:                   {17400, 9},
	{Group: "certificates.k8s.io", Version: "v1"}:          {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:            {17200, 15},
	{Group: "networking.k8s.io", Version: "v1beta1"}:       {17200, 9},
	{Group: "extensions", Version: "v1beta1"}:              {17150, 1},
	{Group: "policy", Version: "v1"}:                       {17100, 15},
	{Group: "policy", Version: "v1beta1"}:                  {17100, 9},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:               {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:         {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}: {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:            {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:          {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                  {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:             {16200, 15},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: {16100, 21},
	{Group: "resource.k8s.io", Version: "v1"}:              {15900, 20},
	{Group: "metrics.k8s.io", Version: "v1beta1"}:          {100, 100}, // as metrics-server's own manifest has it
}

// Of groups that priorities does not know: custom kinds'.
var otherPriority = priority{1000, 100}

func nameOf(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

// local is the APIService of a group version that the master serves. The group of the APIServices themselves has none.
func local(gv schema.GroupVersion, managed string) *apiregistrationv1.APIService {
	p, ok := priorities[gv]
	if !ok {
		p = otherPriority
	}
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: nameOf(gv), Labels: map[string]string{labelManaged: managed}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version,
		},
	}
}

type verb int

const (
	leave verb = iota
	create
	update
	remove
)

// decide says what becomes of one APIService: current is nil when there is none, wanted when the master does not serve the
// version; first is true once after the start of the controller. Whatever does not carry the label is its owner's.
func decide(current, wanted *apiregistrationv1.APIService, first bool) verb {
	switch {
	case current == nil && wanted == nil:
		return leave
	case current == nil:
		if wanted.Labels[labelManaged] == managedEver || first {
			return create
		}
		return leave
	}
	managed := current.Labels[labelManaged]
	if managed != managedEver && (managed != managedStart || !first) {
		return leave
	}
	if wanted == nil {
		return remove
	}
	if current.Spec.Group == metricsGroup && current.Spec.Service != nil {
		return leave
	}
	if wanted.Labels[labelManaged] == managedStart && !first || sameSpec(&current.Spec, &wanted.Spec) {
		return leave
	}
	return update
}

func sameSpec(a, b *apiregistrationv1.APIServiceSpec) bool {
	return a.Service == nil && b.Service == nil && a.Group == b.Group && a.Version == b.Version &&
		a.GroupPriorityMinimum == b.GroupPriorityMinimum && a.VersionPriority == b.VersionPriority
}

func localCondition() apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
		Reason: "Local", Message: "Local APIServices are always available",
	}
}

// withCondition gives the object with a condition, and says whether that is a change; the time of the last transition is that of
// the last other status.
func withCondition(s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) (*apiregistrationv1.APIService, bool) {
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
	next := s.DeepCopy()
	for i := range next.Status.Conditions {
		old := &next.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		changed := *old != c
		*old = c
		return next, changed
	}
	next.Status.Conditions = append(next.Status.Conditions, c)
	return next, true
}

package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The roles and bindings that every cluster begins with: those of Kubernetes 1.36 that people and programs refer to. Rules
// name everything that Kubernetes' own do, also what is not served here, so that custom roles made from them stay valid.

const (
	read  = "get list watch"
	write = "create delete deletecollection patch update"
	core  = "core" // stands for the group without a name

	certificates = "certificates.k8s.io"
)

// role is one ClusterRole of the default policy.
type role struct {
	name string
	// partOf is the role that gathers this one's rules by a label: admin, edit or view.
	partOf string
	// gathers says that the rules are those of the roles that are part of this one.
	gathers bool
	rules   []rbacv1.PolicyRule
}

func defaultRoles() []role {
	return []role{
		{name: "cluster-admin", rules: []rbacv1.PolicyRule{allow("*", "*", "*"), allowURLs("*", "*")}},

		// What everybody may see who said who they are: what the server is, what it offers, and who they are to it.
		{name: "system:discovery", rules: []rbacv1.PolicyRule{
			allowURLs("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"),
		}},
		{name: "system:basic-user", rules: []rbacv1.PolicyRule{
			allow("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			allow("create", "authentication.k8s.io", "selfsubjectreviews"),
		}},
		{name: "system:public-info-viewer", rules: []rbacv1.PolicyRule{
			allowURLs("get", "/healthz /livez /readyz /version /version/"),
		}},

		// For programs that do one thing.
		{name: "system:monitoring", rules: []rbacv1.PolicyRule{
			allowURLs("get", "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz"),
			allow("get", core, "nodes/metrics"),
		}},
		{name: "system:auth-delegator", rules: []rbacv1.PolicyRule{
			allow("create", "authentication.k8s.io", "tokenreviews"),
			allow("create", "authorization.k8s.io", "subjectaccessreviews"),
		}},
		{name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rules: []rbacv1.PolicyRule{
			allow("create", certificates, "certificatesigningrequests/nodeclient"),
		}},
		{name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rules: []rbacv1.PolicyRule{
			allow("create", certificates, "certificatesigningrequests/selfnodeclient"),
		}},
		{name: "system:certificates.k8s.io:legacy-unknown-approver", rules: approve("kubernetes.io/legacy-unknown")},
		{name: "system:certificates.k8s.io:kubelet-serving-approver", rules: approve("kubernetes.io/kubelet-serving")},
		{name: "system:certificates.k8s.io:kube-apiserver-client-approver", rules: approve("kubernetes.io/kube-apiserver-client")},
		{name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", rules: approve("kubernetes.io/kube-apiserver-client-kubelet")},
		{name: "system:service-account-issuer-discovery", rules: []rbacv1.PolicyRule{
			allowURLs("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/"),
		}},

		// For people, in a namespace or in all: each includes the one below.
		{name: "admin", gathers: true},
		// metrics-server brings this one along.
		{name: "system:aggregated-metrics-reader", partOf: "view", rules: []rbacv1.PolicyRule{allow(read, "metrics.k8s.io", "nodes pods")}},
		{name: "edit", gathers: true, partOf: "admin"},
		{name: "view", gathers: true, partOf: "edit"},
		{name: "system:aggregate-to-admin", partOf: "admin", rules: []rbacv1.PolicyRule{
			allow("create", "authorization.k8s.io", "localsubjectaccessreviews"),
			allow(read+" "+write, "rbac.authorization.k8s.io", "roles rolebindings"),
		}},
		{name: "system:aggregate-to-edit", partOf: "edit", rules: []rbacv1.PolicyRule{
			// Reading these gives the rights of others, hence they are not in view.
			allow(read, core, "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
			allow("impersonate", core, "serviceaccounts"),
			allow(write, core, "pods pods/attach pods/exec pods/portforward pods/proxy"),
			allow("create", core, "pods/eviction"),
			allow(write, core, "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets"+
				" serviceaccounts services services/proxy"),
			allow("create", core, "serviceaccounts/token"),
			allow(write, core+" events.k8s.io", "events"),
			allow(write, "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale"+
				" statefulsets statefulsets/scale"),
			allow(write, "autoscaling", "horizontalpodautoscalers"),
			allow(write, "batch", "cronjobs jobs"),
			allow(write, "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies"+
				" replicasets replicasets/scale replicationcontrollers/scale"),
			allow(write, "policy", "poddisruptionbudgets"),
			allow(write, "networking.k8s.io", "ingresses networkpolicies"),
			allow(read+" "+write, "coordination.k8s.io", "leases"),
			allow(write, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
		}},
		{name: "system:aggregate-to-view", partOf: "view", rules: []rbacv1.PolicyRule{
			allow(read, core, "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers"+
				" replicationcontrollers/scale serviceaccounts services services/status"),
			allow(read, core, "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas"+
				" resourcequotas/status"),
			allow(read, core, "namespaces"), // in a namespace this is the right to see that one
			allow(read, core+" events.k8s.io", "events"),
			allow(read, "discovery.k8s.io", "endpointslices"),
			allow(read, "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status"+
				" replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
			allow(read, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
			allow(read, "batch", "cronjobs cronjobs/status jobs jobs/status"),
			allow(read, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses"+
				" ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
			allow(read, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
			allow(read, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
			allow(read, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
		}},
	}
}

// defaultBindings gives default roles to groups; a binding has its role's name.
func defaultBindings() map[string][]string {
	return map[string][]string{
		"cluster-admin":                           {groupMasters},
		"system:monitoring":                       {"system:monitoring"},
		"system:discovery":                        {"system:authenticated"},
		"system:basic-user":                       {"system:authenticated"},
		"system:public-info-viewer":               {"system:authenticated", "system:unauthenticated"},
		"system:service-account-issuer-discovery": {"system:serviceaccounts"},
	}
}

// allow makes a rule of words separated by spaces, in the order in which Kubernetes keeps them.
func allow(verbs, groups, resources string) rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{Verbs: sorted(verbs), APIGroups: sorted(groups), Resources: sorted(resources)}
	for i, g := range r.APIGroups {
		if g == core {
			r.APIGroups[i] = ""
		}
	}
	slices.Sort(r.APIGroups)
	return r
}

// approve is the right to approve requests to one signer.
func approve(signer string) []rbacv1.PolicyRule {
	r := allow("approve", certificates, "signers")
	r.ResourceNames = []string{signer}
	return []rbacv1.PolicyRule{r}
}

func allowURLs(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: sorted(verbs), NonResourceURLs: strings.Fields(urls)}
}

func sorted(words string) []string {
	list := strings.Fields(words)
	slices.Sort(list)
	return list
}

const (
	aggregateTo    = "rbac.authorization.k8s.io/aggregate-to-"
	bootstrapLabel = "kubernetes.io/bootstrapping"
	bootstrapValue = "rbac-defaults"
	yes            = "true"
)

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Labels: map[string]string{bootstrapLabel: bootstrapValue},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: yes},
	}
}

func (r *role) object() *rbacv1.ClusterRole {
	o := &rbacv1.ClusterRole{ObjectMeta: defaultMeta(r.name), Rules: r.rules}
	if r.partOf != "" {
		o.Labels[aggregateTo+r.partOf] = yes
	}
	if r.gathers {
		o.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregateTo + r.name: yes}},
		}}
	}
	return o
}

func bindingOf(name string, groups []string) *rbacv1.ClusterRoleBinding {
	o := &rbacv1.ClusterRoleBinding{
		ObjectMeta: defaultMeta(name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kindClusterRole, Name: name},
	}
	for _, g := range groups {
		o.Subjects = append(o.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: g})
	}
	return o
}

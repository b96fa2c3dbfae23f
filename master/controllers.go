package master

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/controllers/apiservice"
	"github.com/whalepod/whalepod/master/internal/controllers/binding"
	"github.com/whalepod/whalepod/master/internal/controllers/certificates"
	"github.com/whalepod/whalepod/master/internal/controllers/clusterrole"
	"github.com/whalepod/whalepod/master/internal/controllers/cronjob"
	"github.com/whalepod/whalepod/master/internal/controllers/customresource"
	"github.com/whalepod/whalepod/master/internal/controllers/daemonset"
	"github.com/whalepod/whalepod/master/internal/controllers/deployment"
	"github.com/whalepod/whalepod/master/internal/controllers/disruption"
	"github.com/whalepod/whalepod/master/internal/controllers/endpoints"
	"github.com/whalepod/whalepod/master/internal/controllers/gc"
	"github.com/whalepod/whalepod/master/internal/controllers/job"
	"github.com/whalepod/whalepod/master/internal/controllers/loadbalancer"
	"github.com/whalepod/whalepod/master/internal/controllers/namespace"
	"github.com/whalepod/whalepod/master/internal/controllers/nodelife"
	"github.com/whalepod/whalepod/master/internal/controllers/persistentvolume"
	"github.com/whalepod/whalepod/master/internal/controllers/podautoscaler"
	"github.com/whalepod/whalepod/master/internal/controllers/podgc"
	"github.com/whalepod/whalepod/master/internal/controllers/quota"
	"github.com/whalepod/whalepod/master/internal/controllers/replicaset"
	"github.com/whalepod/whalepod/master/internal/controllers/serviceaccount"
	"github.com/whalepod/whalepod/master/internal/controllers/statefulset"
)

// controllers by name. None knows another: they meet in the registry.
func (m *Master) controllers() map[string]func(context.Context) error {
	r, log := m.registry, m.cfg.Logger
	all := map[string]func(context.Context) error{
		"apiservice": apiservice.New(apiservice.Config{Registry: r, Builtin: m.builtin(), Logger: log}).Run,
		"apiservice-availability": apiservice.NewAvailability(apiservice.AvailabilityConfig{
			Registry: r, Check: m.aggregator.Check, Logger: log,
		}).Run,
		"certificates":   certificates.New(certificates.Config{Registry: r, Logger: log, Sign: m.pki.Sign}).Run,
		"clusterrole":    clusterrole.New(clusterrole.Config{Registry: r, Logger: log}).Run,
		"customresource": customresource.New(customresource.Config{Registry: r, Logger: log}).Run,
		"daemonset":      daemonset.New(daemonset.Config{Registry: r, Logger: log}).Run,
		"disruption":     disruption.New(disruption.Config{Registry: r, Logger: log}).Run,
		"deployment":     deployment.New(deployment.Config{Registry: r, Logger: log}).Run,
		"replicaset":     replicaset.New(replicaset.Config{Registry: r, Logger: log}).Run,
		"replication":    replicaset.NewReplication(replicaset.Config{Registry: r, Logger: log}).Run,
		"job":            job.New(job.Config{Registry: r, Logger: log}).Run,
		"cronjob":        cronjob.New(cronjob.Config{Registry: r, Logger: log}).Run,
		"endpoints":      endpoints.New(endpoints.Config{Registry: r, Logger: log}).Run,
		"loadbalancer": loadbalancer.New(loadbalancer.Config{
			Registry: r, Logger: log, Pool: m.pool, HostPorts: m.hostPorts(),
		}).Run,
		"scheduler":      binding.New(binding.Config{Registry: r, Logger: log}).Run,
		"namespace":      namespace.New(namespace.Config{Registry: r, Logger: log}).Run,
		"serviceaccount": serviceaccount.New(serviceaccount.Config{Registry: r, Logger: log, CA: m.pki.CA()}).Run,
		"statefulset":    statefulset.New(statefulset.Config{Registry: r, Logger: log}).Run,
		"persistentvolume": persistentvolume.New(persistentvolume.Config{
			Registry: r, Logger: log, Remover: m.sessions,
		}).Run,
		"horizontalpodautoscaler": podautoscaler.New(podautoscaler.Config{Registry: r, Logger: log, Usage: m.podUsage}).Run,
		"resourcequota":           quota.New(quota.Config{Registry: r, Logger: log}).Run,
		"gc":                      gc.New(gc.Config{Registry: r, Logger: log}).Run,
		"podgc":                   podgc.New(podgc.Config{Registry: r, Logger: log, Threshold: m.cfg.EndedPods}).Run,
		"nodelife": nodelife.New(nodelife.Config{
			Registry: r, Logger: log, Sessions: m.sessions, Gossip: witness{m.gossip},
		}).Run,
	}
	if m.leavesBalancers() {
		delete(all, "loadbalancer")
	}
	return all
}

// hostPorts are what a Service that shares the nodes' addresses must not take: a Service of type LoadBalancer with port 6444
// would cut every agent off from the master, and nobody could take it back.
func (m *Master) hostPorts() []loadbalancer.HostPort {
	const gossip, ssh, vxlan = "the gossip's between the machines", 22, 8472
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	return []loadbalancer.HostPort{
		{Port: int32(m.cfg.APIPort), Protocol: tcp, Use: "the Kubernetes API's"},
		{Port: int32(m.cfg.AgentsPort), Protocol: tcp, Use: "the agents' way to the master"},
		{Port: int32(m.cfg.GossipPort), Protocol: tcp, Use: gossip},
		{Port: int32(m.cfg.GossipPort), Protocol: udp, Use: gossip},
		{Port: int32(m.cfg.NodeGossipPort), Protocol: tcp, Use: gossip},
		{Port: int32(m.cfg.NodeGossipPort), Protocol: udp, Use: gossip},
		{Port: vxlan, Protocol: udp, Use: "the pods' network's (VXLAN)"},
		{Port: ssh, Protocol: tcp, Use: "the one by which people log in (ssh)"},
	}
}

// builtin are the group versions that the master always serves; those of reviews have nothing in the table.
func (m *Master) builtin() []schema.GroupVersion {
	reviews := []schema.GroupVersion{authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion}
	return append(reviews, m.table.Builtin()...)
}

// podUsage bends what agents told to what autoscalers ask.
func (m *Master) podUsage(p *corev1.Pod) (out podautoscaler.Usage, ok bool) {
	u, ok := m.usage.Pod(p.Spec.NodeName, string(p.UID))
	if !ok {
		return out, false
	}
	out = podautoscaler.Usage{Time: u.Time, Window: u.Window, Containers: make([]podautoscaler.ContainerUsage, len(u.Containers))}
	for i, c := range u.Containers {
		out.Containers[i] = podautoscaler.ContainerUsage{Name: c.Name, CPU: c.CPU, Memory: c.Memory}
	}
	return out, true
}

// witness bends the gossip to what nodelife asks: which machines are alive, and which were and fell silent.
type witness struct{ Gossip }

func (w witness) States() map[string]bool {
	states := map[string]bool{}
	for _, m := range w.Members() {
		states[m.Name] = true
	}
	for name := range w.Dead() {
		states[name] = false
	}
	return states
}

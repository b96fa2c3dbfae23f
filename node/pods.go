package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/session"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	"github.com/whalepod/whalepod/proxy"
)

func (a *Agent) newPods(c *cluster, p *dataPlane) *pods.Manager {
	return pods.New(pods.Config{
		NodeName: a.cfg.Identity.Node, DataDir: a.cfg.DataDir, LocalDir: a.cfg.LocalVolumes, Desired: a.desired, Engine: a.cfg.Engine,
		Network: &podNetwork{network: p.network, proxy: p.proxy, policies: p.policies, names: map[string]string{}},
		Report:  reporter{a.outbox}, Record: recorder{a.outbox}, Tokens: tokens{a.session},
		Cluster:     func() netfiles.Cluster { return netfiles.Cluster{Domain: c.domain, DNS: c.dns.String()} },
		HostIPs:     func() []string { return []string{a.cfg.NodeIP.String()} },
		Allocatable: a.allocatable, Refuse: a.guard.refuse,
		RegistryConfigs: registryConfigs(a.cfg.DataDir), ResolvConf: a.cfg.ResolvConf, NodeMemory: a.machine.memory, Log: a.cfg.Logger,
	})
}

// tokens asks the master for service account tokens.
type tokens struct{ session *session.Client }

func (t tokens) Token(ctx context.Context, r volume.TokenRequest) (string, time.Time, error) {
	req := &agentv1.TokenRequest{Namespace: r.Namespace, PodName: r.PodName, PodUid: r.PodUID, ExpirationSeconds: r.ExpirationSeconds}
	if r.Audience != "" {
		req.Audiences = []string{r.Audience}
	}
	return t.session.Token(ctx, req)
}

// podNetwork gives pods their links, host ports and isolation.
type podNetwork struct {
	network  *network.Network
	proxy    *proxy.Proxy
	policies *policyFeed

	mu    sync.Mutex
	names map[string]string // by UID, of pods that have host ports
}

func (n *podNetwork) Attach(ctx context.Context, pod runtime.PodRef, pid int, want string, ports []pods.HostPort) (string, error) {
	link := network.Pod{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}
	link.IP, _ = netip.ParseAddr(want) // an address that cannot be read is no wish
	ip, err := n.network.AttachPod(ctx, network.NetNSOfPID(pid), link)
	if err != nil {
		return "", err
	}
	if err := n.policies.attach(ctx, pod.UID, ip); err != nil {
		return "", err
	}
	n.setPorts(pod, ip, ports)
	return ip.String(), nil
}

// Busy implements pods.Conversations.
func (n *podNetwork) Busy(_ context.Context, pid int) (bool, error) {
	return network.Busy(network.NetNSOfPID(pid))
}

func (n *podNetwork) setPorts(pod runtime.PodRef, ip netip.Addr, ports []pods.HostPort) {
	if len(ports) == 0 {
		return
	}
	out := make([]proxy.HostPort, 0, len(ports))
	for _, p := range ports {
		host, _ := netip.ParseAddr(p.HostIP) // none is every address
		out = append(out, proxy.HostPort{
			Protocol: p.Protocol, HostIP: host, Port: uint16(p.HostPort), Pod: netip.AddrPortFrom(ip, uint16(p.ContainerPort)),
		})
	}
	name := pod.Namespace + "/" + pod.Name
	n.mu.Lock()
	n.names[pod.UID] = name
	n.mu.Unlock()
	n.proxy.SetHostPorts(name, out)
}

func (n *podNetwork) Detach(ctx context.Context, uid string) error {
	n.mu.Lock()
	name, ok := n.names[uid]
	delete(n.names, uid)
	// A pod of the same name may have been attached since.
	for _, other := range n.names {
		ok = ok && other != name
	}
	n.mu.Unlock()
	if ok {
		n.proxy.SetHostPorts(name, nil)
	}
	n.policies.to.Detach(uid) // before its address can be another's
	return n.network.DetachPod(ctx, uid)
}

// reporter and recorder put what the pods tell into the session's outbox.
type reporter struct{ out *session.Outbox }

func (r reporter) Status(pod types.NamespacedName, uid string, status corev1.PodStatus) {
	r.out.Pod(pod.Namespace, pod.Name, types.UID(uid), &status)
}

func (r reporter) Gone(pod types.NamespacedName, uid string) {
	r.out.Gone(pod.Namespace, pod.Name, types.UID(uid))
}

type recorder struct{ out *session.Outbox }

func (r recorder) Event(pod *corev1.Pod, eventType, reason, message, fieldPath string) {
	r.out.Event(session.Event{
		Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), FieldPath: fieldPath,
		Type: eventType, Reason: reason, Message: message,
	})
}

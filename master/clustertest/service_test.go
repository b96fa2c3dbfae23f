package clustertest

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (c *cluster) balance(name, ip string) {
	c.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, LoadBalancerIP: ip, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	if _, err := c.kube.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) externalIPs(name string) string {
	c.Helper()
	s, err := c.kube.CoreV1().Services("default").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	var ips []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		ips = append(ips, in.IP)
	}
	return strings.Join(ips, " ")
}

// Without a pool a Service has the nodes' addresses; a master started with one gives it one of those, and agents hear of it.
func TestLoadBalancer(t *testing.T) {
	run(t, 2, func(c *cluster) {
		has := func(name, want string) {
			t.Helper()
			c.eventually(10*time.Second, name+" has "+want, func() bool { return c.externalIPs(name) == want })
		}
		c.balance("web", "")
		has("web", "198.51.100.11 198.51.100.12")
		c.balance("second", "")
		c.eventually(10*time.Second, "an event says why there is none", func() bool {
			events, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=second,reason=AllocationFailed"})
			return err == nil && len(events.Items) == 1 && strings.Contains(events.Items[0].Message, "port 80/TCP of the nodes is given to Service default/web")
		})
		lost := c.agents["n2"]
		lost.cable(false)
		c.gossip.set("n2", false)
		has("web", "198.51.100.11")
		lost.cable(true)
		c.gossip.set("n2", true)
		has("web", "198.51.100.11 198.51.100.12")

		c.pools = []string{"203.0.113.10-203.0.113.11"}
		c.restartMaster(time.Second)
		c.eventually(time.Minute, "each has its own", func() bool {
			both := []string{c.externalIPs("web"), c.externalIPs("second")}
			slices.Sort(both)
			return slices.Equal(both, []string{"203.0.113.10", "203.0.113.11"})
		})
		web := c.externalIPs("web")
		c.eventually(time.Minute, "agents know the pool", func() bool {
			for _, a := range c.agents {
				a.mu.Lock()
				known := slices.Equal(a.pools, []string{"203.0.113.10/31"})
				a.mu.Unlock()
				if !known {
					return false
				}
			}
			return true
		})
		c.balance("third", c.externalIPs("second"))
		c.restartMaster(time.Second)
		time.Sleep(time.Minute)
		if c.externalIPs("web") != web || c.externalIPs("third") != "" {
			t.Errorf("after a restart web has %q, not %q, and third has %q", c.externalIPs("web"), web, c.externalIPs("third"))
		}
		freed := c.externalIPs("second")
		if err := c.kube.CoreV1().Services("default").Delete(c.ctx, "second", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		has("third", freed)

		// Left to another load balancer, nothing is given, and nothing taken away.
		c.pools = []string{"none"}
		c.restartMaster(time.Second)
		c.balance("theirs", "")
		time.Sleep(time.Minute)
		if c.externalIPs("theirs") != "" || c.externalIPs("third") != freed {
			t.Errorf("theirs has %q, third %q", c.externalIPs("theirs"), c.externalIPs("third"))
		}
	})
}

// The range of Services is told of as in Kubernetes, and others are refused in words.
func TestServiceCIDRs(t *testing.T) {
	run(t, 0, func(c *cluster) {
		ranges := c.kube.NetworkingV1().ServiceCIDRs()
		ready := func() bool {
			s, err := ranges.Get(c.ctx, "kubernetes", metav1.GetOptions{})
			return err == nil && slices.Equal(s.Spec.CIDRs, []string{"10.254.0.0/16"}) && meta.IsStatusConditionTrue(s.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		}
		c.eventually(10*time.Second, "the range is ready", ready)
		other, err := ranges.Create(c.ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"203.0.113.0/24"}}}, metav1.CreateOptions{})
		if err != nil || len(other.Status.Conditions) != 1 || other.Status.Conditions[0].Status != metav1.ConditionFalse || !strings.Contains(other.Status.Conditions[0].Message, "--service-cidr") {
			t.Error(other, err)
		}
		if err := ranges.DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(10*time.Second, "it is there again", ready)
		ip := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "2001:db8::1"}, Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "a"}}}
		if _, err := c.kube.NetworkingV1().IPAddresses().Create(c.ctx, ip, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		ip.Name = "web"
		if _, err := c.kube.NetworkingV1().IPAddresses().Create(c.ctx, ip, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "must be a valid IP address") {
			t.Error(err)
		}
	})
}

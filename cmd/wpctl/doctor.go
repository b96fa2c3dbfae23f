package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

const (
	// examineAtOnce nodes.
	examineAtOnce = 8
	// masterWithin is how long the master may take for what is asked of it alone.
	masterWithin = 20 * time.Second
	// skewWarn of clocks is more than answers take; with skewBad, tokens and certificates that have just been made are refused.
	skewWarn, skewBad = 2 * time.Second, 30 * time.Second
)

// examination is what doctor prints.
type examination struct {
	Cluster []doctor.Finding            `json:"cluster,omitempty"`
	Nodes   map[string][]doctor.Finding `json:"nodes,omitempty"`
}

func newDoctorCommand(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	var nodes []string
	var output, master, dataDir, dockerHost string
	var here bool
	c := &cobra.Command{
		Use:   "doctor [--node NAME] | doctor --local",
		Short: "Examine the nodes, or this machine, and say what is wrong and how to mend it",
		Long: "Examine every node: Docker, ports, firewalls (firewalld, ufw, nftables, iptables), the way to the other nodes and its MTU, kernel, " +
			"DNS, clocks, certificates, disks, memory. Each finding comes with what to do.\n\n" +
			"With --local, or where there is no kubeconfig, this machine alone is examined, without a cluster: before it joins one, or when nothing " +
			"works. The exit code is 1 when something is broken (✗); ! is a warning.",
		Example: `  # All nodes
  wpctl doctor

  # One node
  wpctl doctor --node web1

  # This server, before it joins
  sudo wpctl doctor --local --master 203.0.113.10:6444`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output %s is not known: json, or nothing", output)
			}
			var found examination
			var err error
			if raw, rawErr := f.ToRawKubeConfigLoader().RawConfig(); here || rawErr == nil && len(raw.Clusters) == 0 && len(nodes) == 0 {
				found, err = examineHere(c.Context(), localPlace(dataDir, dockerHost, master))
			} else {
				found, err = examineCluster(c.Context(), f, nodes)
			}
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(streams.Out, found)
			} else {
				found.print(streams.Out)
			}
			if err == nil && found.worst() == doctor.Bad {
				err = cmdutil.ErrExit
			}
			return err
		},
	}
	c.Flags().StringSliceVar(&nodes, "node", nil, "Examine only this node; can be given several times")
	c.Flags().BoolVar(&here, "local", false, "Examine this machine, without a cluster")
	c.Flags().StringVar(&master, "master", "", "With --local: also see whether this master can be reached, as HOST:6444")
	c.Flags().StringVar(&dataDir, "data-dir", "/var/lib/whalepod", "With --local: where this machine keeps, or will keep, its state")
	c.Flags().StringVar(&dockerHost, "docker-host", dockerSocket, "With --local: the Docker Engine")
	c.Flags().StringVarP(&output, "output", "o", "", "Output format: json")
	return c
}

func (e examination) worst() doctor.State {
	all := slices.Clone(e.Cluster)
	for _, list := range e.Nodes {
		all = append(all, list...)
	}
	return doctor.Worst(all)
}

// checkWidth aligns what is said after the names of checks.
const checkWidth = 12

func (e examination) print(w io.Writer) {
	section := func(name string, list []doctor.Finding) {
		if len(list) == 0 {
			return
		}
		fmt.Fprintln(w, name)
		for _, f := range list {
			fmt.Fprintf(w, "  %s %-*s %s\n", f.State.Mark(), checkWidth, f.Check, f.What)
			if f.Fix != "" {
				fmt.Fprintf(w, "    %-*s → %s\n", checkWidth, "", f.Fix)
			}
		}
	}
	section("cluster", e.Cluster)
	for _, name := range slices.Sorted(maps.Keys(e.Nodes)) {
		section(name, e.Nodes[name])
	}
	bad, warnings, unknown := 0, 0, 0
	for _, list := range append(slices.Collect(maps.Values(e.Nodes)), e.Cluster) {
		for _, f := range list {
			switch f.State {
			case doctor.Bad:
				bad++
			case doctor.Warning:
				warnings++
			case doctor.Unknown:
				unknown++
			}
		}
	}
	switch {
	case bad > 0:
		fmt.Fprintf(w, "\n%d broken (✗), %d to look at (!).\n", bad, warnings)
	case warnings == 0 && unknown > 0:
		fmt.Fprintln(w, "\nNothing is broken of what could be found out.")
	case warnings > 0:
		fmt.Fprintf(w, "\nNothing is broken; %d to look at (!).\n", warnings)
	default:
		fmt.Fprintln(w, "\nNothing is broken.")
	}
}

// examineHere needs no cluster.
func examineHere(ctx context.Context, p *doctor.Place) (examination, error) {
	s := doctor.Local()
	if s == nil {
		return examination{}, errors.New("only Linux machines can be nodes: run this on a server")
	}
	ctx, cancel := context.WithTimeout(ctx, doctor.Within)
	defer cancel()
	found := doctor.Examine(ctx, s, p)
	if !s.Root() {
		found = append(found, doctor.Finding{Check: "root", State: doctor.Warning, What: "not all can be seen without being root", Fix: "sudo wpctl doctor --local"})
	}
	return examination{Nodes: map[string][]doctor.Finding{"this machine": found}}, nil
}

// localPlace is what can be told of this machine from its files. The defaults are those of wp-agent and wp-master.
func localPlace(dataDir, dockerHost, master string) *doctor.Place {
	joined, isMaster := exists(filepath.Join(dataDir, "agent", "identity.json")), exists(filepath.Join(dataDir, "master", "pki", "apiserver.crt"))
	p := &doctor.Place{
		Agent: joined || !isMaster, Master: isMaster, DataDir: dataDir, DockerHost: dockerHost, ResolvConf: "/etc/resolv.conf",
		GossipPort: 7946, DNS: netip.MustParseAddr("10.254.254.1"), Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.254.0.0/16"),
	}
	if master != "" {
		p.Masters = []string{master}
	}
	data, err := os.ReadFile(filepath.Join(dataDir, "agent", "identity.json"))
	var id struct {
		Masters         []string
		Certificate, CA string
		Config          struct{ ServiceCidr, PodCidr, DNSIp string }
	}
	if err == nil {
		err = json.Unmarshal(data, &id)
	}
	if err == nil {
		if master == "" {
			p.Masters = id.Masters
		}
		set(&p.Services, id.Config.ServiceCidr)
		set(&p.Pods, id.Config.PodCidr)
		if ip, err := netip.ParseAddr(id.Config.DNSIp); err == nil {
			p.DNS = ip
		}
		p.Certificates = append(certificates("this node's certificate", []byte(id.Certificate)), certificates("the cluster's CA", []byte(id.CA))...)
	}
	for name, file := range map[string]string{"the API's certificate": "apiserver.crt", "the master's CA": "ca.crt"} {
		if data, err := os.ReadFile(filepath.Join(dataDir, "master", "pki", file)); err == nil {
			p.Certificates = append(p.Certificates, certificates(name, data)...)
		}
	}
	return p
}

func set(p *netip.Prefix, text string) {
	if r, err := netip.ParsePrefix(text); err == nil {
		*p = r
	}
}

func certificates(name string, text []byte) []doctor.Certificate {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return []doctor.Certificate{certificate(name, c)}
}

func certificate(name string, c *x509.Certificate) doctor.Certificate {
	return doctor.Certificate{Name: name, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fix: "wp-master renews its own, wp-agent the node's while it has a session: see their logs (journalctl -u wp-master, -u wp-agent), and start them anew"}
}

// examineCluster asks the master, and every node through it.
func examineCluster(ctx context.Context, f cmdutil.Factory, only []string) (examination, error) {
	config, err := f.ToRESTConfig()
	if err != nil {
		return examination{}, err
	}
	out := examination{Nodes: map[string][]doctor.Finding{}}
	asking, cancel := context.WithTimeout(ctx, masterWithin)
	defer cancel()
	var masterOffset time.Duration
	if out.Cluster, masterOffset, err = examineMaster(asking, config); err != nil {
		return out, err
	}
	if raw, err := f.ToRawKubeConfigLoader().RawConfig(); err == nil && raw.CurrentContext != "" {
		out.Cluster[0].What += fmt.Sprintf(" (context %s of the kubeconfig)", raw.CurrentContext)
	}
	client, err := f.KubernetesClientSet()
	if err != nil {
		return out, err
	}
	list, err := client.CoreV1().Nodes().List(asking, metav1.ListOptions{})
	if err != nil {
		return out, err
	}
	all := map[string]*corev1.Node{}
	for i := range list.Items {
		all[list.Items[i].Name] = &list.Items[i]
	}
	for _, name := range only {
		if all[name] == nil {
			return out, fmt.Errorf("nodes %q not found", name)
		}
	}
	if len(only) == 0 {
		only = slices.Sorted(maps.Keys(all))
	}
	if len(only) == 0 {
		out.Cluster = append(out.Cluster, doctor.Finding{Check: "nodes", State: doctor.Bad, What: "the cluster has no nodes", Fix: "wpctl token create --print-join-command tells how to add one"})
	}
	out.Cluster = append(out.Cluster, versions(list.Items)...)
	results := make([][]doctor.Finding, len(only))
	var g errgroup.Group
	g.SetLimit(examineAtOnce)
	for i, name := range only {
		g.Go(func() error {
			results[i] = examineNode(ctx, config, all[name], masterOffset)
			return nil
		})
	}
	_ = g.Wait() // every node has its own place in results
	for i, name := range only {
		out.Nodes[name] = results[i]
	}
	return out, ctx.Err()
}

// examineMaster measures how far its clock is from ours, too: the API says the time to the second.
func examineMaster(ctx context.Context, config *rest.Config) ([]doctor.Finding, time.Duration, error) {
	began := time.Now()
	res, err := request(ctx, config, http.MethodGet, "/version", nil, 0)
	if err != nil {
		return nil, 0, err // main says what to do
	}
	took := time.Since(began)
	defer res.Body.Close()
	out := []doctor.Finding{{Check: "api", State: doctor.OK, What: fmt.Sprintf("%s answers after %.0f ms", config.Host, float64(took.Microseconds())/1000)}}
	if res.TLS != nil && len(res.TLS.PeerCertificates) > 0 {
		place := &doctor.Place{Certificates: []doctor.Certificate{certificate("the API's certificate", res.TLS.PeerCertificates[0])}}
		out = append(out, doctor.Certificates(time.Now(), place)...)
	}
	date, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return out, 0, nil
	}
	// The second that it says began up to a second ago.
	return out, date.Add(time.Second / 2).Sub(began.Add(took / 2)), nil
}

// versions that differ are fine while a cluster is being updated.
func versions(nodes []corev1.Node) []doctor.Finding {
	by := map[string][]string{}
	for _, n := range nodes {
		v := n.Status.NodeInfo.KubeletVersion
		by[v] = append(by[v], n.Name)
	}
	if len(by) < 2 {
		return nil
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, v+" on "+strings.Join(by[v], ", "))
	}
	return []doctor.Finding{{Check: "versions", State: doctor.Warning, What: "agents differ: " + strings.Join(parts, "; "), Fix: "update wp-agent on all nodes"}}
}

func examineNode(ctx context.Context, config *rest.Config, n *corev1.Node, masterOffset time.Duration) []doctor.Finding {
	out := conditions(n)
	ctx, cancel := context.WithTimeout(ctx, doctor.Within+5*time.Second)
	defer cancel()
	var h diagnose.Health
	if err := postNode(ctx, config, n.Name, diagnose.DoctorPath, diagnose.Exam{}, &h); err != nil {
		if apierrors.IsForbidden(err) {
			return append(out, doctor.Finding{Check: "session", State: doctor.Bad, What: "its agent was not asked: " + err.Error(), Fix: "your user needs the right to create nodes/proxy"})
		}
		return append(out, doctor.Finding{Check: "session", State: doctor.Bad, What: "its agent cannot be asked: " + err.Error(),
			Fix: fmt.Sprintf("on %s: journalctl -u wp-agent, and sudo wpctl doctor --local", n.Name)})
	}
	out = append(out, doctor.Finding{Check: "session", State: doctor.OK, What: "its agent answers, version " + n.Status.NodeInfo.KubeletVersion})
	return append(append(out, skew(time.Until(h.Time)-masterOffset)), h.Findings...)
}

func skew(d time.Duration) doctor.Finding {
	f := doctor.Finding{Check: "clock", State: doctor.OK, What: "goes with the master's"}
	if d.Abs() < skewWarn {
		return f
	}
	direction := "ahead of"
	if d < 0 {
		direction = "behind"
	}
	f.State, f.Fix = doctor.Warning, "timedatectl set-ntp true (or install chrony), on the node and on the master"
	f.What = fmt.Sprintf("is %s %s the master's", d.Abs().Round(time.Second/10), direction)
	if d.Abs() >= skewBad {
		f.State = doctor.Bad
		f.What += ": tokens and certificates are refused"
	}
	return f
}

// conditions of a node that say something is wrong.
func conditions(n *corev1.Node) (out []doctor.Finding) {
	ready := doctor.Finding{Check: "ready", State: doctor.Bad, What: "the node has never said that it is ready", Fix: "on " + n.Name + ": journalctl -u wp-agent"}
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue:
			ready = doctor.Finding{Check: "ready", State: doctor.OK, What: "the node is ready"}
		case c.Type == corev1.NodeReady:
			ready.What = fmt.Sprintf("the node is not ready: %s: %s", c.Reason, c.Message)
			ready.Fix = "on " + n.Name + ": systemctl status wp-agent docker; sudo wpctl doctor --local"
		case c.Status == corev1.ConditionTrue:
			fix := "wpctl describe node " + n.Name
			if strings.HasSuffix(string(c.Type), "Pressure") {
				fix += "; pods are evicted until there is room"
			}
			out = append(out, doctor.Finding{Check: "condition", State: doctor.Bad, What: fmt.Sprintf("%s: %s", c.Type, c.Message), Fix: fix})
		}
	}
	if n.Spec.Unschedulable {
		out = append(out, doctor.Finding{Check: "cordon", State: doctor.Warning, What: "the node takes no new pods", Fix: "wpctl uncordon " + n.Name})
	}
	return append([]doctor.Finding{ready}, out...)
}

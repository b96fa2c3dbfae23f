// Command wp-agent makes a machine with Docker a node of a Whalepod cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/whalepod/whalepod/cmd/internal/lean"
	"github.com/whalepod/whalepod/cmd/internal/version"
	"github.com/whalepod/whalepod/node"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/runtime/docker"
	"github.com/whalepod/whalepod/node/session"
)

const usage = `usage: wp-agent COMMAND [options]

  join       join a cluster and run (wpctl token create --print-join-command prints the whole line)
  run        run as the node that this machine is since it joined
  uninstall  end this node's containers and remove its links, rules and files
  hollow     play many nodes that run nothing, to see what a master can carry

wp-agent COMMAND --help lists the options.
`

// See wp-master: a node's memory is the pods'.
const memoryLimit = 200 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "wp-agent:", err)
		os.Exit(1)
	}
}

// options of all commands.
type options struct {
	dataDir, volumesDir, dockerHost, nodeIP, logLevel, labels, resolvConf, proxyMode string
	gossipPort, mtu                                                                  int
	alwaysVXLAN, nodeDNS                                                             bool
	evictionHard                                                                     string
	systemReserved, kubeReserved                                                     corev1.ResourceList
	imageGC                                                                          pressure.ImagePolicy
	join                                                                             session.JoinOptions
}

func parse(command string, args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("wp-agent "+command, flag.ContinueOnError)
	fs.StringVar(&o.dataDir, "data-dir", "/var/lib/whalepod/agent", "where identity, desired state and pods' own volumes are kept")
	fs.StringVar(&o.dockerHost, "docker-host", "unix:///var/run/docker.sock", "the Docker Engine")
	fs.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&o.resolvConf, "resolv-conf", "/etc/resolv.conf", "file with the name servers for names outside the cluster")
	if command != "uninstall" {
		o.pressureFlags(fs)
		fs.StringVar(&o.volumesDir, "volumes-dir", "", "where the data of persistent volumes are kept that the cluster makes on this node (default: volumes beside --data-dir)")
		fs.StringVar(&o.nodeIP, "node-ip", "", "IP address under which the other machines reach this one (default: the one that reaches the master)")
		fs.IntVar(&o.gossipPort, "gossip-port", 7946, "port of the gossip between machines, TCP and UDP; the same on all nodes")
		fs.IntVar(&o.mtu, "mtu", 0, "MTU of pods (default: that of the link)")
		fs.BoolVar(&o.alwaysVXLAN, "always-vxlan", false, "tunnel to every node, for providers that drop packets with addresses they did not assign")
		fs.StringVar(&o.proxyMode, "proxy-mode", node.ProxyAuto, "what holds the rules of services: nftables or iptables; auto takes nftables where the kernel (5.6 and later) takes it")
		fs.StringVar(&o.labels, "node-labels", "", "further labels of the node, as key=value,key=value")
		fs.BoolVar(&o.nodeDNS, "node-dns", false, "let this machine itself resolve the cluster's names: by systemd-resolved where it runs, otherwise by a line in --resolv-conf that is taken out at the end")
	}
	if command == "join" {
		hostname, _ := os.Hostname()
		fs.StringVar(&o.join.Master, "master", "", "the master's agents' port, as HOST:6444")
		fs.StringVar(&o.join.Token, "token", "", "a join token")
		fs.StringVar(&o.join.CAHash, "ca-hash", "", "sha256:HEX of the cluster's CA")
		fs.StringVar(&o.join.NodeName, "node-name", strings.ToLower(hostname), "name of this node")
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; options begin with --", fs.Arg(0))
	}
	if o.volumesDir == "" {
		o.volumesDir = filepath.Join(filepath.Dir(filepath.Clean(o.dataDir)), "volumes")
	}
	var err error
	if o.volumesDir, err = filepath.Abs(o.volumesDir); err != nil {
		return nil, err
	}
	return o, o.imageGC.Validate()
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Print(usage)
		return flag.ErrHelp
	}
	command, args := args[0], args[1:]
	switch command {
	case "join", "run", "uninstall":
	case "hollow":
		return runHollow(ctx, args)
	case "version", "--version":
		fmt.Println("wp-agent", version.Version)
		return nil
	case "help", "--help", "-h":
		fmt.Print(usage)
		return nil
	default:
		return fmt.Errorf("unknown command %q\n%s", command, usage)
	}
	o, err := parse(command, args)
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("an agent sets up links and rules, and so must run as root: try sudo")
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		lean.Limit(memoryLimit)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // Kubernetes' libraries log what they return as errors anyway
	unlock, err := lock(ctx, o.dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if command == "uninstall" {
		return uninstall(ctx, o, log)
	}
	id, err := identity(ctx, command, o)
	if err != nil {
		return err
	}
	if err := protect("/proc"); err != nil {
		log.Info("the kernel may end the agent when memory runs out", "err", err)
	}
	go lean.Keep(ctx)
	return runAgent(ctx, o, id, log)
}

// identity joins, unless this machine has joined that cluster before: so the join line can stand in a start script.
func identity(ctx context.Context, command string, o *options) (*session.Identity, error) {
	id, err := session.LoadIdentity(o.dataDir)
	if command == "run" {
		return id, err
	}
	if err == nil && id.Node == o.join.NodeName && slices.Contains(id.Masters, o.join.Master) && (o.join.CAHash == "" || id.Trusts(o.join.CAHash)) {
		if !id.Expired(time.Now()) {
			return id, nil
		}
		err = session.ErrNotJoined
	}
	if err == nil {
		return nil, fmt.Errorf("this machine is node %s of the cluster at %s already; `wp-agent uninstall --data-dir %s` makes it free to join another", id.Node, strings.Join(id.Masters, ", "), o.dataDir)
	}
	if !errors.Is(err, session.ErrNotJoined) {
		return nil, err
	}
	for option, value := range map[string]string{"--master": o.join.Master, "--token": o.join.Token, "--ca-hash": o.join.CAHash, "--node-name": o.join.NodeName} {
		if value == "" {
			return nil, fmt.Errorf("%s is missing; `wpctl token create --print-join-command` prints the whole line", option)
		}
	}
	return session.Join(ctx, o.dataDir, o.join)
}

func runAgent(ctx context.Context, o *options, id *session.Identity, log *slog.Logger) error {
	ip, err := nodeIP(o.nodeIP, id.Masters[0])
	if err != nil {
		return err
	}
	labels, err := parseLabels(o.labels)
	if err != nil {
		return err
	}
	engine, err := docker.New(docker.Config{Host: o.dockerHost, Node: id.Node, Log: log})
	if err != nil {
		return err
	}
	defer engine.Close()
	a, err := node.New(node.Config{
		DataDir: o.dataDir, LocalVolumes: o.volumesDir, Identity: id, NodeIP: ip, GossipPort: o.gossipPort, Engine: engine, DockerHost: o.dockerHost, Labels: labels,
		EvictionHard: o.evictionHard, ImageGC: o.imageGC, Reserved: pressure.Sum(o.systemReserved, o.kubeReserved),
		AlwaysVXLAN: o.alwaysVXLAN, MTU: o.mtu, ProxyMode: o.proxyMode, ResolvConf: o.resolvConf, NodeDNS: o.nodeDNS, Version: version.Kubernetes(), Logger: log,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func parseLabels(text string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--node-labels: %q is not key=value", pair)
		}
		labels[k] = v
	}
	return labels, nil
}

func uninstall(ctx context.Context, o *options, log *slog.Logger) error {
	id, err := session.LoadIdentity(o.dataDir)
	if err != nil {
		return err
	}
	engine, err := docker.New(docker.Config{Host: o.dockerHost, Node: id.Node, Log: log})
	if err != nil {
		return err
	}
	defer engine.Close()
	return node.Uninstall(ctx, node.UninstallConfig{DataDir: o.dataDir, ResolvConf: o.resolvConf, Identity: id, Engine: engine, Logger: log})
}

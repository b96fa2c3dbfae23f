package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/whalepod/whalepod/lab"
)

// networkRounds: the best of so many counts, of what is compared in turns.
const networkRounds = 3

const (
	streamFor   = 2 * time.Second
	pingFor     = time.Second
	networkPort = "9000"
)

// network measures one connection between pods on two nodes, beside one between the nodes themselves: on one link, where
// the pods' packets are routed, and with a router between them, where they are tunnelled.
func (b *bench) network(ctx context.Context) error {
	l, err := lab.New(lab.Config{Nodes: 2, Dir: filepath.Join(b.dir, "net"), Bin: b.bin, Prefix: "wpb-", Images: b.images})
	if err != nil {
		return err
	}
	defer func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			fmt.Println("   the lab cannot be removed:", err)
		}
	}()
	if err := l.Up(ctx, 0); err != nil {
		return err
	}
	ends, err := b.talkers(ctx, l)
	if err != nil {
		return err
	}
	if err := b.beside(ctx, l, ends, "routed, on one link", 0.6); err != nil {
		return err
	}
	if err := l.Node(2).MoveTo(ctx, 2); err != nil {
		return err
	}
	if err := l.Node(2).WaitReady(ctx, time.Minute); err != nil {
		return err
	}
	return b.beside(ctx, l, ends, "VXLAN, behind a router", 0.4)
}

// talker is a pod to send from or to.
type talker struct{ netns, ip string }

// talkers starts a pod on each node.
func (b *bench) talkers(ctx context.Context, l *lab.Lab) ([]talker, error) {
	var ends []talker
	for i, n := range l.Nodes() {
		name := fmt.Sprintf("talker%d", i+1)
		file := filepath.Join(b.dir, name+".yml")
		text := fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {nodeName: %s, terminationGracePeriodSeconds: 1,
  containers: [{name: sleep, image: busybox, command: [sleep, "100000"]}]}}`, name, n.Name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, err
		}
		if _, err := l.Wpctl(ctx, "apply", "-f", file); err != nil {
			return nil, err
		}
		if _, err := l.Wpctl(ctx, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=2m"); err != nil {
			return nil, err
		}
		ip, err := l.Wpctl(ctx, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
		if err != nil {
			return nil, err
		}
		path, err := n.PodNetNS(ctx, "default", name)
		if err != nil {
			return nil, err
		}
		ends = append(ends, talker{path, ip})
	}
	return ends, nil
}

// beside compares pods with the nodes that they are on.
func (b *bench) beside(ctx context.Context, l *lab.Lab, pods []talker, what string, least float64) error {
	nodes := []talker{{l.Node(1).NetNS(), l.Node(1).Address.String()}, {l.Node(2).NetNS(), l.Node(2).Address.String()}}
	var best [2]struct {
		gbits float64
		ping  percentiles
	}
	for range networkRounds {
		for i, pair := range [][]talker{nodes, pods} {
			gbits, err := stream(ctx, pair[0], pair[1])
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			ping, err := pingPong(ctx, pair[0], pair[1])
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			best[i].gbits = max(best[i].gbits, gbits)
			if best[i].ping.p50 == 0 || ping.p50 < best[i].ping.p50 {
				best[i].ping = ping
			}
		}
	}
	link, ours := best[0], best[1]
	b.hold(what+": throughput", ours.gbits, "Gbit/s", bound{limit: least * link.gbits, least: true,
		text: fmt.Sprintf("at least %.0f %% of the bare link's, same run: %s Gbit/s", 100*least, figure(link.gbits))},
		fmt.Sprintf("%.0f %% of the bare link's", 100*ours.gbits/link.gbits))
	b.add(what+": there and back", "p50 %s µs, p99 %s µs; the bare link, same run: %s and %s µs", figure(ours.ping.p50), figure(ours.ping.p99),
		figure(link.ping.p50), figure(link.ping.p99))
	return nil
}

// serve accepts one connection in a namespace and handles it.
func serve(ctx context.Context, at talker, handle func(net.Conn)) (addr string, stop func(), err error) {
	addr = net.JoinHostPort(at.ip, networkPort)
	var ln net.Listener
	err = lab.In(at.netns, func() (err error) {
		ln, err = new(net.ListenConfig).Listen(ctx, "tcp4", addr)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		handle(c)
	}()
	return addr, func() { ln.Close(); <-ended }, nil
}

// stream sends for a while and returns how much of it arrived, in Gbit/s.
func stream(ctx context.Context, from, to talker) (float64, error) {
	var arrived int64
	var took time.Duration
	addr, stop, err := serve(ctx, to, func(c net.Conn) {
		began, b := time.Now(), make([]byte, 256<<10)
		for {
			n, err := c.Read(b)
			arrived += int64(n)
			if err != nil {
				break
			}
		}
		took = time.Since(began)
	})
	if err != nil {
		return 0, err
	}
	c, err := lab.DialIn(ctx, from.netns, "tcp", addr)
	if err != nil {
		stop()
		return 0, err
	}
	b, end := make([]byte, 256<<10), time.Now().Add(streamFor)
	_ = c.SetDeadline(end.Add(10 * time.Second))
	for err == nil && time.Now().Before(end) {
		_, err = c.Write(b)
	}
	c.Close()
	stop()
	if err != nil {
		return 0, err
	}
	return float64(arrived) * 8 / 1e9 / took.Seconds(), nil
}

// percentiles in µs.
type percentiles struct{ p50, p99 float64 }

// pingPong sends a byte there and back, again and again.
func pingPong(ctx context.Context, from, to talker) (percentiles, error) {
	addr, stop, err := serve(ctx, to, func(c net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 1))
	})
	if err != nil {
		return percentiles{}, err
	}
	defer stop()
	c, err := lab.DialIn(ctx, from.netns, "tcp", addr)
	if err != nil {
		return percentiles{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(pingFor + 10*time.Second))
	var times []float64
	b, end := make([]byte, 1), time.Now().Add(pingFor)
	for time.Now().Before(end) {
		began := time.Now()
		if _, err := c.Write(b); err != nil {
			return percentiles{}, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return percentiles{}, err
		}
		times = append(times, float64(time.Since(began).Nanoseconds())/1000)
	}
	slices.Sort(times)
	return percentiles{times[len(times)/2], times[len(times)*99/100]}, nil
}

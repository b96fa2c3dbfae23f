package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	// Reports are merged for this long.
	mergeFor = 100 * time.Millisecond
	// A session that could not be kept is tried again after a pause between these, with jitter (half as long again at most).
	// After a cut the node is to be whole within 10 s: a try that began too early may take connectTimeout.
	retryMin, retryMax = 500 * time.Millisecond, 3 * time.Second
	connectTimeout     = 5 * time.Second
	keepaliveTime      = 10 * time.Second
	keepaliveTimeout   = 5 * time.Second
	maxMessage         = 16 << 20
	renewEvery         = 6 * time.Hour
	defaultHeartbeat   = 2 * time.Second
	// Whatever the master asks for, a heartbeat comes no more often and no less often than this.
	heartbeatMin, heartbeatMax = 100 * time.Millisecond, time.Minute
)

// Desired is told what the master wants of this node; desired.State is one.
type Desired interface {
	// Begin says that all of it comes now, up to Complete.
	Begin()
	Apply(changes []desired.Change) error
	Complete(revision uint64) error
	// Mark numbers what has been applied so far; see Outbox.InForce.
	Mark(mark uint64)
}

// Selective is a Desired that does not want everything; the rest is not even read.
type Selective interface {
	Wants(r desired.Resource) bool
}

// Config of a client.
type Config struct {
	Identity *Identity
	// Dir keeps the identity, which changes when certificates are renewed.
	Dir     string
	Version string
	// Node describes this node when a session begins.
	Node    func(ctx context.Context) (*corev1.Node, error)
	Desired Desired
	Outbox  *Outbox
	// Serve handles one byte stream that the master asked for, until it or ctx ends.
	Serve func(ctx context.Context, conn net.Conn)
	// Welcomed is told at each beginning of a session what the cluster agrees on and this node's part of the pod range.
	Welcomed func(cluster *agentv1.ClusterConfig, podCIDR string) error
	// Withdrawn, if not nil, is told of deleted pods to which no node sends new connections any more.
	Withdrawn func(podUID string)
	// ReportsInForce says that somebody calls Outbox.InForce with the marks of Desired.
	ReportsInForce bool
	// Dial replaces TCP in tests.
	Dial   func(ctx context.Context, address string) (net.Conn, error)
	Logger *slog.Logger
}

// Client keeps the session.
type Client struct {
	cfg Config
	log *slog.Logger

	tunnels *tunnels

	mu  sync.Mutex          // guards cfg.Identity's contents and what follows
	api agentv1.AgentClient // nil while there is no connection
	// unsaved: the disk refused the identity as it is.
	unsaved bool
}

// New makes a client; Run starts it.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, log: cfg.Logger.With("component", "session"), tunnels: newTunnels(cfg.Serve)}
}

// Run keeps a session with a master until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	pause := retryMin
	for i := 0; ctx.Err() == nil; i++ {
		master := c.cfg.Identity.Masters[i%len(c.cfg.Identity.Masters)]
		began := time.Now()
		err := c.connected(ctx, master)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > retryMax {
			pause = retryMin // it worked for a while
		}
		c.log.Warn("no session with the master; pods, DNS and services go on without it", "master", master, "err", describe(err), "retry", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, retryMax)
	}
	return nil
}

func describe(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// connected runs one connection: the session, its tunnels and the renewal of the certificate.
func (c *Client) connected(ctx context.Context, master string) error {
	c.mu.Lock()
	tlsConfig, err := c.cfg.Identity.tls()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+master, append(dialOptions(tlsConfig, c.cfg.Dial),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	api := agentv1.NewAgentClient(conn)
	c.setAPI(api)
	defer c.setAPI(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.session(ctx, api) })
	g.Go(func() error { return c.renew(ctx, api) })
	return g.Wait()
}

func (c *Client) session(ctx context.Context, api agentv1.AgentClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	node, err := c.cfg.Node(ctx)
	if err != nil {
		return err
	}
	data, err := node.Marshal()
	if err != nil {
		return err
	}
	stream, err := api.Session(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Hello{Hello: &agentv1.Hello{
		Node: data, Version: c.cfg.Version, ReportsInForce: c.cfg.ReportsInForce,
	}}}); err != nil {
		return recvError(stream, err)
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	welcome := m.GetWelcome()
	if welcome.GetConfig() == nil {
		return errors.New("the master did not welcome this node: is it of another version?")
	}
	if err := c.remember(welcome); err != nil {
		return err
	}
	if err := c.cfg.Welcomed(welcome.Config, welcome.PodCidr); err != nil {
		return err
	}
	c.log.Info("session began", "podCIDR", welcome.PodCidr)
	c.cfg.Outbox.restart()
	heartbeat := heartbeatOf(welcome.HeartbeatMillis)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := c.report(gctx, stream, heartbeat)
		if err != nil {
			cancel() // else receive would wait on
		}
		return err
	})
	g.Go(func() error {
		defer cancel() // ends report
		return c.receive(gctx, stream, api)
	})
	return g.Wait()
}

// heartbeatOf is how often the master wants to hear of this node, within reason.
func heartbeatOf(millis int64) time.Duration {
	if millis <= 0 {
		return defaultHeartbeat
	}
	return time.Duration(min(max(millis, heartbeatMin.Milliseconds()), heartbeatMax.Milliseconds())) * time.Millisecond
}

// recvError finds why a stream broke: Send says only that it did.
func recvError(stream agentv1.Agent_SessionClient, err error) error {
	if _, rerr := stream.Recv(); rerr != nil {
		return rerr
	}
	return err
}

// remember keeps what the master said for a start without it.
func (c *Client) remember(w *agentv1.Welcome) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.cfg.Identity
	old, oldCIDR := string(id.Config), id.PodCIDR
	if err := id.setConfig(w.Config); err != nil {
		return err
	}
	id.PodCIDR = w.PodCidr
	if string(id.Config) != old || id.PodCIDR != oldCIDR || c.unsaved {
		err := id.Save(c.cfg.Dir)
		if c.unsaved = err != nil; c.unsaved {
			c.log.Error("what the master said is not on the disk", "err", err)
		}
	}
	return nil
}

// report sends what waits in the outbox, merged, and a heartbeat when nothing else has been sent.
func (c *Client) report(ctx context.Context, stream agentv1.Agent_SessionClient, every time.Duration) error {
	beat := time.NewTicker(every)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			if err := stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{}}}); err != nil {
				return nil // receive knows why
			}
			continue
		case u := <-c.cfg.Outbox.usage:
			if err := stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Usage{Usage: u}}); err != nil {
				return nil
			}
			continue
		case mark := <-c.cfg.Outbox.inForce:
			if err := sendInForce(stream, mark); err != nil {
				return nil
			}
			continue
		case <-c.cfg.Outbox.wake:
		}
		b, err := c.cfg.Outbox.batch()
		if err != nil {
			return fmt.Errorf("status cannot be sent: %w", err)
		}
		if b != nil {
			if err := stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Status{Status: b}}); err != nil {
				return nil
			}
		}
		// The first report goes at once, those right behind it together; but pods wait for marks.
		for merged := time.After(mergeFor); merged != nil; {
			select {
			case <-ctx.Done():
				return nil
			case mark := <-c.cfg.Outbox.inForce:
				if err := sendInForce(stream, mark); err != nil {
					return nil
				}
			case <-merged:
				merged = nil
			}
		}
	}
}

func sendInForce(stream agentv1.Agent_SessionClient, mark uint64) error {
	return stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_InForce{InForce: &agentv1.InForce{Mark: mark}}})
}

func (c *Client) receive(ctx context.Context, stream agentv1.Agent_SessionClient, api agentv1.AgentClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.Message.(type) {
		case *agentv1.FromMaster_Changes:
			if err := c.apply(m.Changes); err != nil {
				return err
			}
		case *agentv1.FromMaster_OpenTunnel:
			c.tunnels.open(ctx, api, m.OpenTunnel.Id)
		case *agentv1.FromMaster_Acknowledge:
			c.cfg.Outbox.acknowledge(m.Acknowledge.Sequence)
		case *agentv1.FromMaster_Withdrawn:
			if c.cfg.Withdrawn != nil {
				c.cfg.Withdrawn(m.Withdrawn.PodUid)
			}
		}
	}
}

// apply hands changes to the desired state.
func (c *Client) apply(m *agentv1.Changes) error {
	if m.Begin {
		c.cfg.Desired.Begin()
	}
	selective, _ := c.cfg.Desired.(Selective)
	changes := make([]desired.Change, 0, len(m.Changes))
	for _, ch := range m.Changes {
		name, _, _ := strings.Cut(ch.Resource, ".")
		if selective != nil && !selective.Wants(desired.Resource(name)) {
			continue
		}
		d := desired.Change{Resource: desired.Resource(name), Key: desired.Key(ch.Namespace, ch.Name), Revision: uint64(m.Revision)}
		if !ch.Deleted {
			d.Object = desired.New(d.Resource)
			if d.Object == nil {
				continue // a newer master speaks of kinds this agent does not know
			}
			if err := d.Object.Unmarshal(ch.Object); err != nil {
				return fmt.Errorf("the master sent %s %s/%s in a form that cannot be read: %w", ch.Resource, ch.Namespace, ch.Name, err)
			}
		}
		changes = append(changes, d)
	}
	if err := c.cfg.Desired.Apply(changes); err != nil {
		c.log.Error("desired state is not on the disk; a restart without the master would miss it", "err", err)
	}
	defer func() {
		if m.Mark != 0 {
			c.cfg.Desired.Mark(m.Mark)
		}
	}()
	if !m.Complete {
		return nil
	}
	if err := c.cfg.Desired.Complete(uint64(m.Revision)); err != nil {
		c.log.Error("desired state is not on the disk; a restart without the master would miss it", "err", err)
	}
	return nil
}

// renew replaces the node's certificate when a third of its life is left.
func (c *Client) renew(ctx context.Context, api agentv1.AgentClient) error {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		if c.dueForRenewal(time.Now()) {
			if err := c.renewNow(ctx, api); err != nil && ctx.Err() == nil {
				c.log.Error("the node's certificate could not be renewed", "err", describe(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (c *Client) dueForRenewal(now time.Time) bool {
	c.mu.Lock()
	cert := c.cfg.Identity.certificate()
	c.mu.Unlock()
	return cert != nil && now.After(cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore)/3))
}

func (c *Client) renewNow(ctx context.Context, api agentv1.AgentClient) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	id := c.cfg.Identity // its Node never changes
	key, csr, err := newRequest(id.Node)
	if err != nil {
		return err
	}
	res, err := api.Renew(ctx, &agentv1.RenewRequest{Csr: csr})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *id
	next.Certificate, next.Key, next.CA = string(res.Certificate), string(key), string(res.Ca)
	if _, err := next.tls(); err != nil {
		return err
	}
	if err := next.Save(c.cfg.Dir); err != nil {
		return err
	}
	*id = next // the next connection uses it; this one stays good
	return nil
}

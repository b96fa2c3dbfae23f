package sessions

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// place is where a proxied request goes: an address, and the node that reaches it.
type place struct {
	scheme, node string
	addr         netip.Addr
	port         int32
}

// proxyPod serves pods/proxy: NAME, NAME:PORT or SCHEME:NAME:PORT.
func (s *Server) proxyPod(w http.ResponseWriter, req *http.Request, namespace, id, path string) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	to := place{scheme: scheme}
	if err := s.cfg.Registry.View(func(v *registry.View) error {
		pod, err := registry.Get[*corev1.Pod](v, namespace, name)
		if err != nil {
			return err
		}
		to.node = pod.Spec.NodeName
		to.port = firstPort(pod)
		to.addr, err = proxyable(pod.Status.PodIP)
		return err
	}); err != nil {
		return err
	}
	if port != "" {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
		}
		to.port = int32(number)
	}
	return s.proxyTo(w, req, to, path)
}

// firstPort is the one that a request without a port means.
func firstPort(pod *corev1.Pod) int32 {
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return c.Ports[0].ContainerPort
		}
	}
	return 0
}

// proxyable refuses addresses that mean something else on every machine.
func proxyable(ip string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !addr.Unmap().IsGlobalUnicast() {
		return addr, apierrors.NewBadRequest("address not allowed")
	}
	return addr, nil
}

// proxyService serves services/proxy: NAME, NAME:PORT or SCHEME:NAME:PORT, the port by its name or number.
func (s *Server) proxyService(w http.ResponseWriter, req *http.Request, namespace, id, path string) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	var places []place
	if err := s.cfg.Registry.View(func(v *registry.View) error {
		svc, err := registry.Get[*corev1.Service](v, namespace, name)
		if err != nil {
			return err
		}
		if port, err = portName(svc, port); err != nil {
			return err
		}
		endpoints, err := registry.Get[*corev1.Endpoints](v, namespace, name)
		if err != nil {
			return err
		}
		places = placesOf(endpoints, port)
		return nil
	}); err != nil {
		return err
	}
	if len(places) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
	}
	to := places[rand.IntN(len(places))]
	to.scheme = scheme
	return s.proxyTo(w, req, to, path)
}

// DialService connects to one of a Service's endpoints, by a port's number, through the tunnel of a node that reaches it: the
// master itself need not be on the pods' network.
func (s *Server) DialService(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	var places []place
	if err := s.cfg.Registry.View(func(v *registry.View) error {
		svc, err := registry.Get[*corev1.Service](v, namespace, name)
		if err != nil {
			return err
		}
		named, err := portName(svc, strconv.Itoa(int(port)))
		if err != nil {
			return err
		}
		endpoints, err := registry.Get[*corev1.Endpoints](v, namespace, name)
		if err != nil {
			return err
		}
		places = placesOf(endpoints, named)
		return nil
	}); err != nil {
		return nil, err
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("no endpoints available for service %q", name)
	}
	to := places[rand.IntN(len(places))]
	if to.node == "" {
		if to.node = s.anyNode(); to.node == "" {
			return nil, errors.New("no node is connected")
		}
	}
	return s.dialThrough(ctx, to.node, netip.AddrPortFrom(to.addr, uint16(to.port)).String())
}

// portName finds the name of a port that may be given by its number.
func portName(svc *corev1.Service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return port, nil
	}
	for _, p := range svc.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, svc.Name))
}

func placesOf(e *corev1.Endpoints, port string) (places []place) {
	for _, subset := range e.Subsets {
		for _, p := range subset.Ports {
			if p.Name != port {
				continue
			}
			for _, a := range subset.Addresses {
				addr, err := proxyable(a.IP)
				if err != nil {
					continue
				}
				to := place{addr: addr, port: p.Port}
				if a.NodeName != nil {
					to.node = *a.NodeName
				}
				places = append(places, to)
			}
		}
	}
	return places
}

// proxyTo passes a request on by Kubernetes' own rules for redirects, links and upgrades.
func (s *Server) proxyTo(w http.ResponseWriter, req *http.Request, to place, path string) error {
	if to.node == "" { // an address beside the cluster: any node will do
		if to.node = s.anyNode(); to.node == "" {
			return apierrors.NewServiceUnavailable("no node is connected")
		}
	}
	if to.scheme == "" {
		to.scheme = "http"
	}
	if to.port == 0 {
		to.port = map[string]int32{"http": 80, "https": 443}[to.scheme]
	}
	target := &url.URL{Scheme: to.scheme, Host: netip.AddrPortFrom(to.addr, uint16(to.port)).String(), Path: strings.TrimSuffix(path, "/")}
	if strings.HasSuffix(path, "/") {
		target.Path += "/"
	}
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return s.dialThrough(ctx, to.node, addr) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // pods' certificates name nobody that we know; Kubernetes does the same
		// One connection a request: the tunnel ends with it.
		DisableKeepAlives: true, DisableCompression: true,
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
	req = req.Clone(req.Context())
	req.Header.Del("Authorization") // who asks has been checked; pods need no secret of theirs
	utilproxy.NewUpgradeAwareHandler(target, transport, true, false, responder{}).ServeHTTP(w, req)
	return nil
}

// responder writes the failures of a proxied request as Status objects.
type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	told := (*apierrors.StatusError)(nil)
	if !errors.As(err, &told) {
		told = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	writeStatus(w, told)
}

func (s *Server) anyNode() string {
	var names []string
	for name, alive := range s.Alive() {
		if alive {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return names[0]
}

// dialThrough connects to an address that a node reaches, by CONNECT to its agent.
func (s *Server) dialThrough(ctx context.Context, node, addr string) (net.Conn, error) {
	conn, err := s.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
		conn.Close()
		return nil, err
	}
	buffered := bufio.NewReader(conn)
	res, err := http.ReadResponse(buffered, &http.Request{Method: http.MethodConnect})
	if err != nil {
		conn.Close()
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		conn.Close()
		return nil, errors.New(strings.TrimSpace(string(why)))
	}
	return &ahead{conn, buffered}, nil
}

// ahead is a connection of which something may have been read already.
type ahead struct {
	net.Conn
	buffered *bufio.Reader
}

func (c *ahead) Read(p []byte) (int, error) { return c.buffered.Read(p) }

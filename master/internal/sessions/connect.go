package sessions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

var _ server.Connector = (*Server)(nil)

// Connect implements server.Connector: it finds the node and passes the request on through a tunnel. Upgrades (SPDY,
// WebSocket) pass as they are; the agent speaks them.
func (s *Server) Connect(w http.ResponseWriter, req *http.Request, r *resource.Resource, sub, namespace, name, path string) error {
	switch {
	case r.Key() == "pods" && sub == "proxy":
		return s.proxyPod(w, req, namespace, name, path)
	case r.Key() == "services" && sub == "proxy":
		return s.proxyService(w, req, namespace, name, path)
	case r.Key() == "pods":
		return s.connectPod(w, req, sub, namespace, name)
	case r.Key() == "nodes" && sub == "proxy":
		if err := s.checkNode(name); err != nil {
			return err
		}
		s.proxy(w, req, name, "/"+strings.TrimPrefix(path, "/"), req.URL.Query(), nil)
		return nil
	}
	return apierrors.NewMethodNotSupported(r.GroupResource(), sub)
}

func (s *Server) checkNode(name string) error {
	return s.cfg.Registry.View(func(v *registry.View) error {
		_, err := registry.Get[*corev1.Node](v, "", name)
		return err
	})
}

func (s *Server) connectPod(w http.ResponseWriter, req *http.Request, sub, namespace, name string) error {
	var pod *corev1.Pod
	if err := s.cfg.Registry.View(func(v *registry.View) (err error) {
		pod, err = registry.Get[*corev1.Pod](v, namespace, name)
		return err
	}); err != nil {
		return err
	}
	q := req.URL.Query()
	container := q.Get("container")
	if sub != "portforward" {
		var err error
		if container, err = pickContainer(pod, container); err != nil {
			return err
		}
	}
	if pod.Spec.NodeName == "" {
		if sub == "log" {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusOK) // an unscheduled pod has said nothing yet
			return nil
		}
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	q.Del("container")
	var path string
	var check func(*http.Response) error
	switch sub {
	case "log":
		check = func(r *http.Response) error { return statusOf(r, name) }
		path = "/containerLogs/" + namespace + "/" + name + "/" + container
	case "exec", "attach":
		rename(q, map[string]string{"stdin": "input", "stdout": "output", "stderr": "error"})
		path = "/" + sub + "/" + namespace + "/" + name + "/" + string(pod.UID) + "/" + container
	case "portforward":
		path = "/portForward/" + namespace + "/" + name + "/" + string(pod.UID)
	default:
		return apierrors.NewMethodNotSupported(corev1.Resource("pods"), sub)
	}
	s.proxy(w, req, pod.Spec.NodeName, path, q, check)
	return nil
}

// rename turns the API's option names into those of the kubelet's endpoints; "true" becomes "1" as remotecommand reads it.
func rename(q url.Values, names map[string]string) {
	for api, agent := range names {
		if v := q.Get(api); v == "true" || v == "1" {
			q.Set(agent, "1")
		}
		q.Del(api)
	}
	if v := q.Get("tty"); v == "true" {
		q.Set("tty", "1")
	}
}

// pickContainer finds the container that a log, exec or attach means.
func pickContainer(pod *corev1.Pod, name string) (string, error) {
	var names []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	all := sets.New(names...)
	var first []string
	for _, c := range pod.Spec.InitContainers {
		all.Insert(c.Name)
		first = append(first, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all.Insert(c.Name)
	}
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	switch {
	case name == "" && len(names) == 1:
		return names[0], nil
	case name == "":
		text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names)
		if len(first) > 0 {
			text += fmt.Sprintf(" or one of the init containers: %v", first)
		}
		return "", apierrors.NewBadRequest(text)
	case !all.Has(name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

// proxy passes a request to a node's agent. Streams last as long as both sides want. check, if not nil, may refuse what
// the agent answers.
func (s *Server) proxy(w http.ResponseWriter, req *http.Request, node, path string, q url.Values, check func(*http.Response) error) {
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: node, Path: path, RawQuery: q.Encode()}
			r.Out.Host = node
			r.Out.Header.Del("Authorization") // who asks has been checked; the agent needs no secret of theirs
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return s.Dial(ctx, node)
			},
			DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 0,
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode >= 300 && r.StatusCode < 400 && r.StatusCode != http.StatusNotModified {
				return fmt.Errorf("node %s answered with a redirect, which no agent does", node)
			}
			if check != nil {
				return check(r)
			}
			return nil
		},
		FlushInterval: -1, // logs -f and progress are read as they are written
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if told := (*apierrors.StatusError)(nil); errors.As(err, &told) {
				writeStatus(w, told)
				return
			}
			s.log.Warn("stream to node failed", "node", node, "path", path, "err", err)
			writeStatus(w, apierrors.NewServiceUnavailable(fmt.Sprintf("error dialing backend: %v", err)))
		},
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // a stream outlives the server's limits for ordinary requests
	_ = rc.SetWriteDeadline(time.Time{})
	p.ServeHTTP(w, req)
}

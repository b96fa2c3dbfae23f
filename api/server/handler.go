package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/whalepod/whalepod/api/resource"
)

// maxWarnings bounds the bytes of Warning headers; more would break clients' header limits.
const maxWarnings = 16 << 10

// request is one request on its way through the server.
type request struct {
	s     *Server
	req   *http.Request
	out   *response
	query url.Values
	user  User

	// For requests of a resource:
	target
	res  *resource.Resource
	sub  resource.Subresource
	verb string

	warned   map[string]bool
	warnings []string
}

// kind of the served version that the request speaks.
func (rq *request) kind() schema.GroupVersionKind { return rq.gv.WithKind(rq.res.Kind) }

// warn adds a message for the Warning header, each once.
func (rq *request) warn(msg string) {
	if rq.warned[msg] || msg == "" {
		return
	}
	if rq.warned == nil {
		rq.warned = map[string]bool{}
	}
	rq.warned[msg] = true
	rq.warnings = append(rq.warnings, msg)
}

func (rq *request) writeWarnings() {
	total := 0
	for _, msg := range rq.warnings {
		h, err := utilnet.NewWarningHeader(299, "-", msg)
		if err != nil {
			continue // not valid UTF-8
		}
		if total += len(h); total > maxWarnings {
			break
		}
		rq.out.Header().Add("Warning", h)
	}
	rq.warnings = nil
}

// body reads the request's body up to the limit.
func (rq *request) body() ([]byte, error) {
	if rq.req.ContentLength > maxBody {
		return nil, errTooLarge()
	}
	data, err := io.ReadAll(io.LimitReader(rq.req.Body, maxBody+1))
	if err != nil {
		if rq.req.Context().Err() != nil {
			return nil, rq.req.Context().Err()
		}
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body of the request could not be read: %v", err))
	}
	if len(data) > maxBody {
		return nil, errTooLarge()
	}
	return data, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	// The deadline of a request before this one on the connection must not cut this one's answer off.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	out := &response{ResponseWriter: w}
	rq := &request{s: s, req: req, out: out}
	start := time.Now()
	done := s.metrics.begin()
	defer func() {
		if v := recover(); v != nil {
			done(rq, time.Since(start))
			s.recovered(rq, v)
			return
		}
		done(rq, time.Since(start))
	}()
	if err := s.serve(rq); err != nil {
		s.writeError(rq, err)
	}
}

// recovered turns a panic into a 500; one in the middle of an answer cuts the connection.
func (s *Server) recovered(rq *request, v any) {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	s.log.Error("panic while serving", "method", rq.req.Method, "path", rq.req.URL.Path, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
	if rq.out.began {
		panic(http.ErrAbortHandler)
	}
	s.writeError(rq, apierrors.NewInternalError(fmt.Errorf("this request caused apiserver to panic. Look in the logs for details")))
}

// serve is the way of a request: limits, who, may they, what.
func (s *Server) serve(rq *request) error {
	path := rq.req.URL.Path
	if s.servePublic(rq, path) {
		return nil
	}
	var err error
	if rq.query, err = url.ParseQuery(rq.req.URL.RawQuery); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("unable to parse query parameters: %v", err))
	}
	rq.user, err = s.Auth.Authenticate(rq.req)
	if err != nil {
		s.log.Debug("not authenticated", "path", path, "err", err)
		rq.out.Header().Set("WWW-Authenticate", `Bearer realm="whalepod"`)
		return errUnauthorized()
	}
	if err := s.impersonate(rq); err != nil {
		return err
	}
	if gv, ok := s.isExternal(path); ok {
		return s.serveExternal(rq, gv)
	}
	isResource, err := s.resolve(rq)
	if err != nil {
		return err
	}
	release, err := s.admit(rq)
	if err != nil {
		return err
	}
	defer release()
	if !isResource {
		a := Attributes{Verb: strings.ToLower(rq.req.Method), Path: path}
		if err := s.authorize(rq.req.Context(), rq.user, a); err != nil {
			return err
		}
		return s.serveOther(rq, path)
	}
	if err := s.authorize(rq.req.Context(), rq.user, rq.attributes()); err != nil {
		return err
	}
	return s.serveResource(rq)
}

// longRunning requests are watches and connections: they have no deadline and take no slot.
func (rq *request) longRunning() bool { return rq.verb == "watch" || rq.isConnection() }

// isConnection says whether the Connector serves the request.
func (rq *request) isConnection() bool {
	switch rq.subresource {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// admit bounds a request: its place among those in flight, its time, and (for long ones) the server's end.
func (s *Server) admit(rq *request) (release func(), err error) {
	ctl := http.NewResponseController(rq.out.ResponseWriter)
	if rq.longRunning() {
		// Deadlines of an earlier request on the connection must not end this one.
		_ = ctl.SetReadDeadline(time.Time{})
		_ = ctl.SetWriteDeadline(time.Time{})
		ctx, cancel := context.WithCancel(rq.req.Context())
		rq.req = rq.req.WithContext(ctx)
		forget := func() bool { return true }
		if life := s.life.Load(); life != nil {
			forget = context.AfterFunc(*life, cancel)
		}
		return func() { forget(); cancel() }, nil
	}
	limit := requestTimeout
	if t := rq.query.Get("timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %s", err))
		}
		if d > 0 && d < limit {
			limit = d
		}
	}
	until := time.Now().Add(limit)
	_ = ctl.SetReadDeadline(until)
	_ = ctl.SetWriteDeadline(until.Add(limit))
	ctx, cancel := context.WithDeadline(rq.req.Context(), until)
	rq.req = rq.req.WithContext(ctx)
	select {
	case s.slots <- struct{}{}:
	default:
		wait := time.NewTimer(s.patience)
		defer wait.Stop()
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			cancel()
			return nil, ctx.Err()
		case <-wait.C:
			cancel()
			return nil, errTooMany()
		}
	}
	return func() { <-s.slots; cancel() }, nil
}

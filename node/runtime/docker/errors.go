package docker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/whalepod/whalepod/node/runtime"
)

// engineError keeps the engine's words and adds what kind of error it is.
type engineError struct {
	kind  error
	cause error
}

func (e *engineError) Error() string   { return e.cause.Error() }
func (e *engineError) Unwrap() []error { return []error{e.kind, e.cause} }

func mark(kind, err error) error { return &engineError{kind, err} }

// classify gives an error of the client one of the sentinels of package runtime; what stays without is transient.
func classify(err error) error {
	var kinded *engineError
	switch {
	case err == nil, errors.As(err, &kinded), errors.Is(err, context.Canceled):
		return err
	case unavailable(err):
		return mark(runtime.ErrUnavailable, err)
	case cerrdefs.IsNotFound(err):
		return mark(runtime.ErrNotFound, err)
	case cerrdefs.IsInvalidArgument(err):
		return mark(runtime.ErrInvalid, err)
	}
	return err
}

// unavailable: the engine could not be reached, went away during the call, or did not answer in time.
func unavailable(err error) bool {
	var netErr *net.OpError
	return client.IsErrConnectionFailed(err) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// hopeless are words of runc and the engine for a container that can never start as it was asked for. Engines answer
// them with status 400, 404 or 500, depending on their version.
var hopeless = []string{
	"executable file not found",
	"no command specified",
	"not a directory",
	"is a directory",
	"exec format error",
	"invalid mount config",
	"bind source path does not exist",
	"unable to find user",
	"unable to find group",
	"invalid reference format",
	"unknown or invalid runtime name",
	"sysctl",
}

func classifyStart(err error) error {
	err = classify(err)
	if err == nil || errors.Is(err, runtime.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return err
	}
	text := strings.ToLower(err.Error())
	for _, words := range hopeless {
		if strings.Contains(text, words) {
			return mark(runtime.ErrInvalid, err)
		}
	}
	// runc names the command: exec: "x": permission denied, exec: "x": stat x: no such file or directory.
	if _, rest, ok := strings.Cut(text, `exec: "`); ok &&
		(strings.Contains(rest, "permission denied") || strings.Contains(rest, "no such file or directory")) {
		return mark(runtime.ErrInvalid, err)
	}
	if strings.Contains(text, "oci runtime") && errors.Is(err, runtime.ErrNotFound) {
		return mark(runtime.ErrInvalid, errors.New(err.Error())) // Engine 17.03 answers 404 for a missing command
	}
	return err
}

// mayBeOOM: a failure that can come from a refused oom_score_adj, that is, any but a known other one.
func mayBeOOM(err error) bool {
	for _, other := range []error{runtime.ErrUnavailable, runtime.ErrConflict, runtime.ErrInvalid, runtime.ErrNotFound, context.Canceled} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// missing and denied are words of registries (distribution's error codes, Docker Hub, Harbor, GitHub) as the engine
// passes them on.
var (
	missing = []string{"manifest unknown", "name unknown", "repository name not known", "not found: manifest",
		"repository does not exist or may require", "no matching manifest", "invalid reference format", "not found"}
	denied = []string{"unauthorized", "authentication required", "no basic auth credentials", "access denied",
		"denied:", "access forbidden", "403 forbidden", "incorrect username or password"}
)

// unreachable are words for a registry that does not answer, or not as one.
var unreachable = []string{"dial tcp", "no such host", "lookup ", "i/o timeout", "timeout exceeded", "handshake timeout", "tls:", "x509:",
	"server gave http response to https client", "connection reset by peer", "unexpected eof", "internal server error", "bad gateway",
	"service unavailable", "gateway timeout", "gateway time-out"}

// classifyPull tells apart: no such image, no rights, no network, and everything else.
// Docker Hub answers "pull access denied … may require 'docker login'" for both of the first two; it is told as denied.
func classifyPull(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if unavailable(err) { // the engine, not the registry: errors of the latter come as text
		return classify(err)
	}
	text := strings.ToLower(err.Error())
	// The network comes before "not found", as resolvers say that too.
	for _, c := range []struct {
		words []string
		kind  error
	}{{denied, runtime.ErrImageDenied}, {unreachable, runtime.ErrRegistryUnavailable}, {missing, runtime.ErrImageMissing}} {
		for _, words := range c.words {
			if strings.Contains(text, words) {
				return mark(c.kind, err)
			}
		}
	}
	if cerrdefs.IsNotFound(err) || cerrdefs.IsInvalidArgument(err) {
		return mark(runtime.ErrImageMissing, err)
	}
	return classify(err)
}

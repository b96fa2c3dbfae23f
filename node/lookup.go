package node

import (
	"context"
	"errors"
	"net"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/streams"
)

// streams serves log, exec, attach, port-forward and image loads through the session's tunnels.
func (a *Agent) streams(m *pods.Manager) func(context.Context, net.Conn) {
	return streams.New(streams.Config{
		Engine: a.cfg.Engine, Lookup: lookup{m}, Loaded: m.ImagesLoaded, RemoveVolume: m.RemoveLocalVolume,
		Diagnose: diagnose.NewHandler(examined{a}), Log: a.cfg.Logger,
	}).ServeConn
}

// lookup finds for a stream the container that it means.
type lookup struct{ pods *pods.Manager }

// Lookup implements streams.Lookup, with the kubelet's status codes: 404 for what is not here, 400 for a log that there is
// not, and 500 for the rest.
func (l lookup) Lookup(_ context.Context, namespace, pod, uid, container string, want streams.Want) (string, bool, int, error) {
	var f pods.Found
	var err error
	switch want {
	case streams.WantSandbox:
		f, err = l.pods.Sandbox(namespace, pod, uid)
	case streams.WantRunning:
		f, err = l.pods.Running(namespace, pod, uid, container)
	default:
		f, err = l.pods.Logs(namespace, pod, uid, container, want == streams.WantPrevious)
	}
	var unknown *pods.Unknown
	switch {
	case err == nil:
		return f.ContainerID, f.TTY, f.SandboxPID, nil
	case errors.As(err, &unknown):
		err = streams.NotFound("%s", err)
	case want == streams.WantLog || want == streams.WantPrevious:
		err = streams.BadRequest("%s", err)
	default:
		err = streams.NotRunning("%s", err)
	}
	return "", false, 0, err
}

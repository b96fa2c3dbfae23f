package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// serveV5 speaks v5.channel.k8s.io, what kubectl 1.30 and later asks for first: five channels, and a message that ends
// stdin. cri-streaming knows versions up to 4, as in Kubernetes the API server translates.
func (c *command) serveV5(w http.ResponseWriter, r *http.Request,
	run func(in io.Reader, out, errs io.Writer, resize <-chan remotecommand.TerminalSize) error, doing string) {
	kinds := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  channel(c.opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: channel(c.opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: channel(c.opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: kinds},
	})
	conn.SetIdleTimeout(idleTimeout)
	_, ch, err := conn.Open(w, r)
	if err != nil {
		c.h.log.Debug("websocket refused", "err", err)
		return
	}
	defer conn.Close()
	// An empty message tells the client that the connection stands, as cri-streaming does.
	first := remotecommand.StreamErr
	switch {
	case c.opts.Stdout:
		first = remotecommand.StreamStdOut
	case c.opts.Stderr:
		first = remotecommand.StreamStdErr
	}
	if _, err := ch[first].Write(nil); err != nil {
		return
	}
	resize := make(chan remotecommand.TerminalSize)
	go readSizes(r.Context(), ch[remotecommand.StreamResize], resize)
	err = run(ch[remotecommand.StreamStdIn], ch[remotecommand.StreamStdOut], ch[remotecommand.StreamStdErr], resize)
	text, err := json.Marshal(outcome(err, doing))
	if err == nil {
		ch[remotecommand.StreamErr].Write(text)
	}
}

func channel(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
	if wanted {
		return kind
	}
	return wsstream.IgnoreChannel
}

func readSizes(ctx context.Context, in io.Reader, out chan<- remotecommand.TerminalSize) {
	defer close(out)
	for dec := json.NewDecoder(in); ; {
		var size remotecommand.TerminalSize
		if dec.Decode(&size) != nil {
			return
		}
		select {
		case out <- size:
		case <-ctx.Done():
			return
		}
	}
}

// outcome is the Status that ends a command, from version 4 of the protocol on.
func outcome(err error, doing string) metav1.Status {
	var exit utilexec.CodeExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit):
		return metav1.Status{
			Status: metav1.StatusFailure,
			Reason: remotecommand.NonZeroExitCodeReason,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
				Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.Code),
			}}},
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("%s: %w", doing, err)).Status()
}

package streams_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wpruntime "github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/streams"
)

// one container that runs, for whoever asks.
type anybody struct {
	id  string
	pid int
}

func (a anybody) Lookup(context.Context, string, string, string, string, streams.Want) (string, bool, int, error) {
	return a.id, false, a.pid, nil
}

const upgradeWS = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// masked is a WebSocket frame of a client (RFC 6455, section 5.2).
func masked(opcode byte, payload string) string {
	head := []byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}
	return string(head) + payload
}

// control is a SPDY/3 control frame (draft-mbelshe-httpbis-spdy-00, section 2.2.1).
func control(kind uint16, body string) string {
	b := binary.BigEndian.AppendUint16([]byte{0x80, 3}, kind)
	return string(binary.BigEndian.AppendUint32(b, uint32(len(body)))) + body
}

// FuzzServeConn: whatever comes out of a tunnel, the handler answers or hangs up, and lives on. Requests, their options, and the
// frames of WebSocket and SPDY behind them.
func FuzzServeConn(f *testing.F) {
	request := func(method, path, headers string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: n\r\n%s\r\n", method, path, headers)
	}
	exec := "/exec/default/web/main?command=sh&input=1&output=1&error=1&tty="
	for _, p := range []string{"v5", "v4", "v1"} {
		f.Add(request("GET", exec+"1", upgradeWS+"Sec-WebSocket-Protocol: "+p+".channel.k8s.io\r\n"),
			masked(2, "\x00exit 3\n")+masked(2, "\x04{\"Width\":80,\"Height\":24}")+masked(2, "\xff\x00")+masked(8, "\x03\xe8"))
	}
	f.Add(request("GET", exec, upgradeWS+"Sec-WebSocket-Protocol: base64.channel.k8s.io\r\n"), masked(1, "0"+base64.StdEncoding.EncodeToString([]byte("exit\n"))))
	f.Add(request("POST", exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"),
		control(1, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00")+control(6, "\x00\x00\x00\x01")+"\x00\x00\x00\x01\x01\x00\x00\x02hi")
	f.Add(request("POST", "/portForward/default/web?port=80", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n"), control(1, "\x00\x00\x00\x01"))
	f.Add(request("GET", "/portForward/default/web?port=80&port=x", upgradeWS+"Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"), masked(2, control(6, "\x00\x00\x00\x01")))
	f.Add(request("GET", "/portForward/default/web?port=80", upgradeWS+"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"), masked(2, "\x00hi"))
	f.Add(request("GET", "/containerLogs/default/web/main?follow=true&tailLines=-1&sinceSeconds=x&limitBytes=9223372036854775807&sinceTime=0001-01-01T00:00:00Z", ""), "")
	f.Add(request("GET", "/containerLogs/default/web/main?tailLines=3&timestamps=1&stream=Stdout", ""), "")
	f.Add(request("POST", "/images/load", "Content-Length: 3\r\n"), "tar")
	f.Add(request("GET", "/attach/default/web/u/main?stdout=true", upgradeWS), masked(9, ""))
	f.Add("CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", "x")

	engine := fake.New("n")
	engine.AddImage("img")
	s, err := engine.RunSandbox(f.Context(), wpruntime.SandboxSpec{Pod: wpruntime.PodRef{Namespace: "default", Name: "web", UID: "u"}})
	if err != nil {
		f.Fatal(err)
	}
	id, err := engine.CreateContainer(f.Context(), wpruntime.ContainerSpec{SandboxID: s.ID, Pod: s.Pod, Name: "main", Image: "img", Command: []string{"sh", "-c", "sleep 100000"}})
	if err == nil {
		err = engine.StartContainer(f.Context(), id)
	}
	if err != nil {
		f.Fatal(err)
	}
	engine.OnExec(func(_ wpruntime.Container, _ []string, s wpruntime.Streams) (int, error) {
		if s.Stdin != nil {
			_, _ = io.CopyN(io.Discard, s.Stdin, 4)
		}
		return 3, nil
	})
	var said alarm // net/http survives a handler's panic and logs it
	h := streams.New(streams.Config{Engine: engine, Lookup: anybody{id, s.PID}, Dial: func(context.Context, int, uint16) (net.Conn, error) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(far, far); far.Close() }()
		return near, nil
	}, Log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	f.Fuzz(func(t *testing.T, head, frames string) {
		if strings.Contains(strings.ToUpper(head), "CONNECT") && !strings.Contains(head, "127.0.0.1:") {
			return // it would be dialled for real
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		client, server := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			h.ServeConn(ctx, server)
		}()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, client)
		}()
		_ = client.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := io.WriteString(client, head); err == nil {
			_, _ = io.WriteString(client, frames)
		}
		client.Close()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Error("the handler goes on after its client has gone")
		}
		<-read
		if text := said.text.Load(); text != nil {
			t.Fatal(*text)
		}
	})
}

// alarm keeps the line of a log that tells of a panic.
type alarm struct{ text atomic.Pointer[string] }

func (a *alarm) Write(p []byte) (int, error) {
	if text := string(p); strings.Contains(text, "panic serving") {
		a.text.Store(&text)
	}
	return len(p), nil
}

// Package streams answers for one node what the kubelet's port 10250 answers on Kubernetes: logs, exec, attach,
// port-forward, and the loading of images. The master reaches it through the agent's tunnel, one connection a stream,
// in plain HTTP/1.1 with upgrades; so nothing listens.
//
//	GET  /containerLogs/{namespace}/{pod}/{container}?follow&tailLines&sinceSeconds&sinceTime&timestamps&limitBytes&previous&stream
//	any  /exec/{namespace}/{pod}/{uid}/{container}?command=…&input&output&error&tty
//	any  /attach/{namespace}/{pod}/{uid}/{container}?input&output&error&tty
//	any  /portForward/{namespace}/{pod}/{uid}
//	POST /images/load   (body: docker-archive; answer: lines of JSON)
//	POST /diagnose/…    (see node/diagnose)
//
// The parameters of exec and attach may also have the names of the API (stdin, stdout, stderr), and their values may be
// 1 or true, so the query of a client's request can be passed on as it is. A UID of "-" means whichever pod has the name.
//
// The protocols are those of k8s.io/cri-streaming (SPDY, WebSocket v1 to v4), and beside them WebSocket v5 and SPDY
// tunnelled through WebSocket, which a kubelet leaves to the API server: so the master only has to copy bytes.
//
// A stream ends when either side of its connection does, and leaves nothing behind: no goroutine, no command.
package streams

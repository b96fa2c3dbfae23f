package master

import (
	"context"
	"io"
	"net/http"
	"time"
)

// BackupPath is where members of system:masters get a consistent copy of the state, and the cluster's identity, while the
// cluster runs on.
const BackupPath = "/backup"

// serveBackup streams the copy. A copy that breaks off ends the connection without a proper end, so that no client takes a
// part for the whole.
func (m *Master) serveBackup(w http.ResponseWriter, req *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // as long as it takes; the client's connection bounds it
	_ = rc.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/octet-stream")
	began := time.Now()
	size := &counter{w: w}
	out := stopWhenGone{req.Context(), size}
	rev, err := m.store.Backup(context.WithoutCancel(req.Context()), out)
	if err == nil {
		err = m.backupIdentity(out)
	}
	if err != nil {
		m.log.Error("backup broke off", "err", err, "bytes", size.n)
		panic(http.ErrAbortHandler)
	}
	m.log.Info("backup taken", "rev", rev, "bytes", size.n, "took", time.Since(began).Round(time.Millisecond))
}

func (m *Master) backupIdentity(w io.Writer) error {
	identity, err := m.pki.Export()
	if err != nil {
		return err
	}
	return writeIdentity(w, identity)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// stopWhenGone ends a copy whose client has gone. The request's own deadline must not: a large state takes longer.
type stopWhenGone struct {
	ctx context.Context
	w   io.Writer
}

func (s stopWhenGone) Write(p []byte) (int, error) {
	if s.ctx.Err() == context.Canceled {
		return 0, s.ctx.Err()
	}
	return s.w.Write(p)
}

package pods

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// report computes the status and tells it if it changed. final: nothing of the pod runs, nor will.
func (w *worker) report(final bool) {
	if w.orphan {
		return
	}
	s := w.compute(final)
	changed := !w.reported || !equality.Semantic.DeepEqual(s, w.last)
	w.last = s
	w.show()
	if !changed {
		return
	}
	w.saveStatus(&s)
	if w.gone {
		return // there is no object to write it to
	}
	w.reported = true
	w.m.cfg.Report.Status(w.name(), w.uid, *s.DeepCopy())
}

func (w *worker) compute(final bool) corev1.PodStatus {
	if w.rejected {
		return corev1.PodStatus{
			Phase: corev1.PodFailed, Reason: w.verdict.Reason, Message: w.verdict.Message, QOSClass: status.QOS(w.pod),
			StartTime: w.startTime(), ObservedGeneration: w.pod.Generation, Conditions: w.pod.Status.Conditions,
		}
	}
	starting := map[string]bool{}
	for id, h := range w.hooks {
		if done, err := h.result(); !done || err != nil {
			starting[id] = true
		}
	}
	waiting := w.waiting
	if w.ending() || w.verdict != nil {
		waiting = nil
	}
	sb := w.sandbox()
	return status.Compute(status.Input{
		Pod: w.pod, Old: w.last, Observed: w.observed, SandboxReady: sb != nil && sb.ID == w.attached,
		PodIPs: w.podIPs, HostIPs: w.m.cfg.HostIPs(), Waiting: waiting, Starting: starting,
		Ready: w.isReady, Started: w.isStarted, Message: w.message, Actual: w.actual, Resizes: w.resizeConditions(), ImageRefs: w.imageRefs(),
		Terminal: w.ending() || w.verdict != nil, Final: final, Verdict: w.verdict, Anew: w.anew && !w.ending(),
		Disruption: w.evicted != nil && w.evicted.Disruption, Now: time.Now(),
	})
}

// show what streams look up.
func (w *worker) show() {
	v := view{known: true, status: w.last, pod: w.pod, running: processes(w.observed), finished: w.finished}
	v.cleared = w.finished && (w.last.Reason != Evicted || len(w.observed.Containers) == 0)
	if sb := w.sandbox(); sb != nil {
		v.sandboxPID, v.sandboxID = sb.PID, sb.ID
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
}

const (
	messageMax     = 4096
	messageLogMax  = 2048
	messageLines   = 80
	messageTimeout = 5 * time.Second
)

// message that a container left: what it wrote to its termination log, or with FallbackToLogsOnError the end of its log
// when it failed and wrote nothing. It is looked up once.
func (w *worker) message(c *runtime.Container) string {
	if m, ok := w.messages[c.ID]; ok {
		return m
	}
	sp := w.container(c.Name)
	if sp == nil {
		return ""
	}
	m := tail(w.terminationLog(c.Name, c.Attempt), messageMax)
	if m == "" && c.ExitCode != 0 && sp.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		m = w.logTail(c.ID)
	}
	w.messages[c.ID] = m
	return m
}

// recall the messages that are in the last status, for their files may be gone.
func (w *worker) recall() {
	for _, list := range [][]corev1.ContainerStatus{w.last.InitContainerStatuses, w.last.ContainerStatuses, w.last.EphemeralContainerStatuses} {
		for i := range list {
			for _, s := range []corev1.ContainerState{list[i].State, list[i].LastTerminationState} {
				if s.Terminated == nil {
					continue
				}
				if id, ok := status.EngineID(s.Terminated.ContainerID); ok {
					w.messages[id] = s.Terminated.Message
				}
			}
		}
	}
}

// tail reads the last bytes of a regular file.
func tail(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	if info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, _ := io.ReadAll(io.LimitReader(f, most))
	return string(data)
}

func (w *worker) logTail(id string) string {
	ctx, cancel := context.WithTimeout(w.ctx, messageTimeout)
	defer cancel()
	var buf bytes.Buffer
	if err := w.m.cfg.Engine.Logs(ctx, id, runtime.LogOptions{Tail: messageLines, Stdout: &buf, Stderr: &buf}); err != nil {
		return ""
	}
	data := buf.Bytes()
	return string(data[max(0, len(data)-messageLogMax):])
}

func (m *Manager) statusFile(uid string) string {
	return filepath.Join(m.cfg.DataDir, "status", filepath.Base(uid))
}

// saveRetry is when a status is written again that the disk refused.
const saveRetry = 10 * time.Second

// saveStatus keeps the last status, checksummed, so that a restarted agent knows restart counts, times, and what has ended.
func (w *worker) saveStatus(s *corev1.PodStatus) {
	data, err := s.Marshal()
	if err == nil {
		file := w.m.statusFile(w.uid)
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			data = binary.LittleEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
			if err = os.WriteFile(file+".tmp", data, 0o600); err == nil {
				err = os.Rename(file+".tmp", file)
			} else {
				_ = os.Remove(file + ".tmp") // half of it only takes up room
			}
		}
	}
	if err != nil && !w.unsaved {
		w.log.Warn("the pod's status could not be kept on disk", "err", err, "retry", saveRetry)
	}
	w.unsaved = err != nil
}

// save again what the disk refused, when it is time.
func (w *worker) save() {
	if !w.unsaved || w.gone {
		w.savedAt = time.Time{}
		return
	}
	if now := time.Now(); !now.Before(w.savedAt) {
		if !w.savedAt.IsZero() {
			w.saveStatus(&w.last)
		}
		w.savedAt = now.Add(saveRetry)
	}
	if w.unsaved {
		w.wakeAt(w.savedAt)
	}
}

func (m *Manager) loadStatus(uid string) (corev1.PodStatus, bool) {
	var s corev1.PodStatus
	data, err := os.ReadFile(m.statusFile(uid))
	if err != nil || len(data) < 4 {
		return s, false
	}
	body := data[:len(data)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(data[len(body):]) || s.Unmarshal(body) != nil {
		return corev1.PodStatus{}, false
	}
	return s, true
}

func (m *Manager) dropStatus(uid string) {
	_ = os.Remove(m.statusFile(uid))
	m.dropGrant(uid)
}

// savedStatuses lists the UIDs on disk.
func (m *Manager) savedStatuses() []string {
	entries, err := os.ReadDir(filepath.Join(m.cfg.DataDir, "status"))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".tmp" {
			out = append(out, e.Name())
		}
	}
	return out
}

// startTime is when this node first saw the pod.
func (w *worker) startTime() *metav1.Time {
	if !w.last.StartTime.IsZero() {
		return w.last.StartTime
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	return &now
}

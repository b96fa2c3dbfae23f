package pods

import "github.com/whalepod/whalepod/node/pods/status"

// Evicted is the reason of a pod that the node ends to save itself.
const Evicted = "Evicted"

// Evict ends a pod for good, with its grace period: it has failed, and whoever owns it makes another elsewhere. It tells
// whether there is such a pod.
func (m *Manager) Evict(uid, message string) bool {
	w := m.worker(uid)
	if w == nil || w.retired() {
		return false
	}
	w.post(func(in *inbox) { in.evict = &status.Reason{Reason: Evicted, Message: message} })
	return true
}

package streams

import "net/http"

// removeVolume deletes what is in a local volume that nobody claims any more. The master asks for it; the path is a
// single name, and so nothing outside the directory of such volumes can be meant.
func (h *Handler) removeVolume(w http.ResponseWriter, r *http.Request) {
	if h.remove == nil {
		http.Error(w, "this node keeps no local volumes", http.StatusNotImplemented)
		return
	}
	name := r.PathValue("name")
	if err := h.remove(name); err != nil {
		h.log.Warn("local volume not removed", "volume", name, "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.log.Info("local volume removed", "volume", name)
	w.WriteHeader(http.StatusNoContent)
}

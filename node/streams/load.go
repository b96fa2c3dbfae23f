package streams

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
)

// loadLine is one line of the answer to /images/load. The last has either Error or Loaded.
type loadLine struct {
	Status   string   `json:"status,omitempty"`
	Progress string   `json:"progress,omitempty"`
	Error    string   `json:"error,omitempty"`
	Loaded   []string `json:"loaded,omitempty"`
}

// load reads a docker-archive from the request and tells what happens while it does.
func (h *Handler) load(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var mu sync.Mutex
	tell := func(l loadLine) {
		mu.Lock()
		defer mu.Unlock()
		if json.NewEncoder(w).Encode(l) == nil { // a client that went shows in the body
			rc.Flush()
		}
	}
	names, err := h.engine.Load(r.Context(), r.Body, func(text string) {
		if strings.HasPrefix(text, "Loaded image") {
			return // told below
		}
		status, progress := text, ""
		if at := strings.LastIndexByte(text, ' '); at > 0 && strings.HasSuffix(text, "%") {
			status, progress = text[:at], text[at+1:]
		}
		tell(loadLine{Status: status, Progress: progress})
	})
	if err != nil {
		h.log.Info("loading images failed", "err", err)
		tell(loadLine{Error: err.Error()})
		return
	}
	h.log.Info("images loaded", "images", names)
	if h.loaded != nil {
		h.loaded(r.Context(), names)
	}
	tell(loadLine{Status: "Loaded " + strings.Join(names, ", "), Loaded: names})
}

package docker

import (
	"fmt"
	"time"
)

// Words of a layer in a pull's messages (distribution/xfer of Docker).
const (
	layerWaits     = "Pulling fs layer"
	layerDownloads = "Downloading"
	layerFetched   = "Download complete"
	layerUnpacks   = "Extracting"
	layerDone      = "Pull complete"
	layerHad       = "Already exists"
)

// pullProgress sums up what an engine says about the layers of one pull.
type pullProgress struct {
	layers map[string]*layer
	told   time.Time
}

type layer struct {
	bytes, total int64
	done         bool
}

func (p *pullProgress) add(m message) {
	switch m.Status {
	case layerWaits, layerDownloads, layerFetched, layerUnpacks, layerDone, layerHad:
	default:
		return
	}
	if p.layers == nil {
		p.layers = map[string]*layer{}
	}
	l := p.layers[m.ID]
	if l == nil {
		l = &layer{}
		p.layers[m.ID] = l
	}
	switch m.Status {
	case layerDownloads:
		l.bytes, l.total = max(l.bytes, m.Detail.Current), m.Detail.Total
	case layerFetched:
		l.bytes = max(l.bytes, l.total)
	case layerUnpacks: // its total is the download's; a small layer tells of nothing before
		l.bytes = max(l.bytes, m.Detail.Total)
	case layerDone, layerHad:
		l.done = true
	}
}

// due tells, at most once in progressEvery, that there is something to tell.
func (p *pullProgress) due(now time.Time) bool {
	if len(p.layers) == 0 || now.Sub(p.told) < progressEvery {
		return false
	}
	p.told = now
	return true
}

// String is as in "2 of 5 layers done, 31.4 MB downloaded".
func (p *pullProgress) String() string {
	done, bytes := 0, int64(0)
	for _, l := range p.layers {
		if l.done {
			done++
		}
		bytes += l.bytes
	}
	return fmt.Sprintf("%d of %d layers done, %.1f MB downloaded", done, len(p.layers), float64(bytes)/1e6)
}

package server

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count requests, under Kubernetes' own names so that its dashboards work.
type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	watches  *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests by verb, resource and answer."}, []string{"verb", "group", "resource", "subresource", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help: "Time to answer requests other than watches and connections.", Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30}},
			[]string{"verb", "resource"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "apiserver_current_requests", Help: "Requests being served."}),
		watches:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests", Help: "Watches and connections being served."}, []string{"verb", "resource"}),
	}
	if reg != nil {
		reg.MustRegister(m.total, m.duration, m.inFlight, m.watches)
	}
	return m
}

// unknownSubresource stands for all that a resource does not have. No subresource is called so.
const unknownSubresource = "?"

// has tells whether the resource has this subresource, in any version.
func (rq *request) has(sub string) bool {
	if rq.res == nil {
		return false
	}
	_, ok := rq.res.Subresources[sub]
	return ok
}

// begin counts a request in; the returned function counts it out.
func (m *metrics) begin() func(rq *request, took time.Duration) {
	m.inFlight.Inc()
	return func(rq *request, took time.Duration) {
		m.inFlight.Dec()
		verb, res, group, sub := rq.verb, rq.target.resource, rq.gv.Group, rq.subresource
		if sub != "" && !rq.has(sub) {
			sub = unknownSubresource // a client's word too, which need not even be text
		}
		if rq.res == nil && !isReview(rq.target) {
			// Paths are the client's words and would make a label each.
			verb, res, group, sub = "", "", "", ""
		}
		m.total.WithLabelValues(verb, group, res, sub, strconv.Itoa(rq.out.code)).Inc()
		if !rq.longRunning() {
			m.duration.WithLabelValues(verb, res).Observe(took.Seconds())
		}
	}
}

// long counts a watch or connection while it lasts.
func (m *metrics) long(rq *request) func() {
	g := m.watches.WithLabelValues(rq.verb, rq.target.resource)
	g.Inc()
	return g.Dec
}

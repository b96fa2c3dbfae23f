package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/client-go/transport"

	"github.com/whalepod/whalepod/api/server"
)

const (
	// checkTimeout of one question for what another server serves, and tries of it: endpoints differ.
	checkTimeout = 5 * time.Second
	checkTries   = 3
	// maxDiscovery bounds the answer, in bytes.
	maxDiscovery = 3 << 20
)

// Pass implements server.Aggregator.
func (a *Aggregator) Pass(w http.ResponseWriter, req *http.Request, gv schema.GroupVersion, u server.User) error {
	to := a.current().to[gv]
	if to == nil || !to.available {
		return apierrors.NewServiceUnavailable("service unavailable")
	}
	location := &url.URL{Scheme: "https", Host: to.host, Path: req.URL.Path, RawQuery: req.URL.RawQuery}
	req = req.Clone(req.Context())
	// Who asks has been checked; the other server gets no secret of theirs, and no names but these.
	req.Header.Del("Authorization")
	transport.SetAuthProxyHeaders(req, u.Name, u.UID, u.Groups, u.Extra)
	utilproxy.NewUpgradeAwareHandler(location, to.transport, true, false, responder{}).ServeHTTP(w, req)
	return nil
}

// responder writes failures as Status objects.
type responder struct{}

func (responder) Error(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil {
		return // the client has gone, or its time is over
	}
	told := (*apierrors.StatusError)(nil)
	if !errors.As(err, &told) {
		told = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	told.ErrStatus.Kind, told.ErrStatus.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(told.ErrStatus.Code))
	_ = json.NewEncoder(w).Encode(told.ErrStatus) // a client that has gone needs no answer
}

// Check asks the server of a version what it serves, and remembers it. Errors are in kube-aggregator's words.
func (a *Aggregator) Check(ctx context.Context, gv schema.GroupVersion) error {
	to := a.current().to[gv]
	if to == nil {
		return nil
	}
	u := url.URL{Scheme: "https", Host: to.host, Path: "/apis/" + gv.Group + "/" + gv.Version}
	var err error
	for range checkTries {
		var told []metav1.APIResource
		if told, err = to.ask(ctx, u.String()); err == nil {
			a.remember(gv, told)
			return nil
		}
		to.transport.CloseIdleConnections()
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("failing or missing response from %v: %w", u.String(), err)
}

func (to *upstream) ask(ctx context.Context, u string) ([]metav1.APIResource, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	client := http.Client{Transport: to.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode < http.StatusOK || res.StatusCode >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("bad status from %v: %d", u, res.StatusCode)
	}
	var list metav1.APIResourceList
	if err := json.NewDecoder(io.LimitReader(res.Body, maxDiscovery)).Decode(&list); err != nil {
		return nil, nil // it answers, which is what was asked
	}
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return list.APIResources, nil
}

func (a *Aggregator) remember(gv schema.GroupVersion, told []metav1.APIResource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reflect.DeepEqual(a.told[gv], told) {
		return
	}
	a.told[gv] = told
	if s := a.last.Load(); s != nil {
		next := *s
		next.list = slices.Clone(s.list)
		for i := range next.list {
			if next.list[i].GroupVersion == gv {
				next.list[i].Resources = told
			}
		}
		a.last.Store(&next)
	}
}

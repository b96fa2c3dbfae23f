package admission

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
)

const (
	// defaultTimeout of a webhook that names none, which the version's defaults do not let happen.
	defaultTimeout = 10 * time.Second
	// maxAnswer bounds what a webhook may answer, in bytes.
	maxAnswer = 8 << 20
	// idleTimeout closes connections that wait for the next request.
	idleTimeout = 30 * time.Second
	httpsPort   = 443
)

// caller knows how one webhook is reached.
type caller struct {
	url    string
	client *http.Client
	err    error
}

// callerID is the hash of a client configuration.
type callerID [sha256.Size]byte

// callerOf finds or makes what calls by a client configuration: webhooks of one server share connections, also over changes
// of their configuration.
func (b *Backend) callerOf(c *admissionv1.WebhookClientConfig, before map[callerID]*caller) *caller {
	text, err := json.Marshal(c)
	if err != nil {
		return &caller{err: err}
	}
	id := callerID(sha256.Sum256(text))
	made := b.callers[id]
	if made == nil {
		if made = before[id]; made == nil {
			made = b.newCaller(c)
		}
		b.callers[id] = made
	}
	return made
}

func (b *Backend) newCaller(c *admissionv1.WebhookClientConfig) *caller {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 4,
		ForceAttemptHTTP2: true,
	}
	if len(c.CABundle) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CABundle) {
			return &caller{err: errors.New("unable to load root certificates: unable to parse bytes as PEM block")}
		}
		t.TLSClientConfig.RootCAs = pool
	}
	out := &caller{client: &http.Client{
		Transport: t,
		// Kubernetes' client would follow; a webhook that sends elsewhere what it was asked is no webhook.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if s := c.Service; s != nil {
		port := int32(httpsPort)
		if s.Port != nil {
			port = *s.Port
		}
		host := s.Name + "." + s.Namespace + ".svc"
		t.TLSClientConfig.ServerName = host
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.cfg.DialService(ctx, s.Namespace, s.Name, port)
		}
		u := url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
		if s.Path != nil {
			u.Path = *s.Path
		}
		out.url = u.String()
		return out
	}
	if c.URL == nil {
		return &caller{err: errors.New("webhook configuration must have either service or URL")}
	}
	out.url = *c.URL
	t.DialContext = (&net.Dialer{Timeout: defaultTimeout}).DialContext
	return out
}

// timeout of the hook.
func (h *hook) timeout() time.Duration {
	if h.TimeoutSeconds == nil {
		return defaultTimeout
	}
	return time.Duration(*h.TimeoutSeconds) * time.Second
}

// post asks the webhook. Errors say that it could not be asked, or that its answer is none.
func (h *hook) post(ctx context.Context, review *admissionapi.AdmissionReview) (*admissionapi.AdmissionResponse, error) {
	if h.caller.err != nil {
		return nil, fmt.Errorf("could not get REST client: %w", h.caller.err)
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, fmt.Errorf("could not create admission objects: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout())
	defer cancel()
	answer, err := h.caller.ask(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("failed to call webhook: %w", err)
	}
	if err := verify(h, review.Request, answer); err != nil {
		return nil, fmt.Errorf("received invalid webhook response: %w", err)
	}
	return answer.Response, nil
}

func (c *caller) ask(ctx context.Context, body []byte) (*admissionapi.AdmissionReview, error) {
	u := c.url
	if deadline, ok := ctx.Deadline(); ok {
		// Whole seconds, rounded up, as Kubernetes' client says it.
		u += "?timeout=" + (time.Until(deadline) + time.Second - 1).Truncate(time.Second).String()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	res, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		if len(data) > 1024 {
			data = data[:1024]
		}
		return nil, fmt.Errorf("an error on the server (%q) has prevented the request from succeeding: status %d", data, res.StatusCode)
	}
	var answer admissionapi.AdmissionReview
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	return &answer, nil
}

// verify refuses answers that are to another question, or ask for what the hook may not.
func verify(h *hook, asked *admissionapi.AdmissionRequest, answer *admissionapi.AdmissionReview) error {
	want := admissionapi.SchemeGroupVersion.WithKind("AdmissionReview")
	r := answer.Response
	switch {
	case r == nil:
		return errors.New("webhook response was absent")
	case r.UID != asked.UID:
		return fmt.Errorf("expected response.uid=%q, got %q", asked.UID, r.UID)
	case answer.GroupVersionKind() != want:
		return fmt.Errorf("expected webhook response of %v, got %v", want, answer.GroupVersionKind())
	case !h.Mutating && len(r.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !h.Mutating && r.PatchType != nil:
		return errors.New("validating webhook may not return response.patchType")
	case len(r.Patch) > 0 && r.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(r.Patch) == 0 && r.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case r.PatchType != nil && *r.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	return nil
}

package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/whalepod/whalepod/master/internal/webhook"
)

const (
	// defaultTimeout of a webhook that names none, which the version's defaults do not let happen.
	defaultTimeout = 10 * time.Second
	// maxAnswer bounds what a webhook may answer, in bytes.
	maxAnswer = 8 << 20
)

// caller knows how one webhook is reached.
type caller struct {
	client *webhook.Client
	err    error
}

// callerOf finds or makes what calls by a client configuration: webhooks of one server share connections, also over changes
// of their configuration.
func (b *Backend) callerOf(c *admissionv1.WebhookClientConfig, before map[webhook.ID]*caller) *caller {
	config := &webhook.Config{URL: c.URL, CABundle: c.CABundle}
	if s := c.Service; s != nil {
		config.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name, Path: s.Path, Port: s.Port}
	}
	id := config.ID()
	made := b.callers[id]
	if made == nil {
		if made = before[id]; made == nil {
			made = &caller{}
			made.client, made.err = webhook.New(config, b.cfg.DialService)
		}
		b.callers[id] = made
	}
	return made
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
	query := ""
	if deadline, ok := ctx.Deadline(); ok {
		// Whole seconds, rounded up, as Kubernetes' client says it.
		query = "?timeout=" + (time.Until(deadline) + time.Second - 1).Truncate(time.Second).String()
	}
	data, err := c.client.Post(ctx, query, body, maxAnswer)
	if err != nil {
		return nil, err
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

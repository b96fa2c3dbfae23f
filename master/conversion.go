package master

import (
	"bytes"
	"context"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/whalepod/whalepod/api/resource/custom"
	"github.com/whalepod/whalepod/master/internal/webhook"
)

const (
	// conversionTimeout of one call, for which definitions have no field. Requests have sixty seconds.
	conversionTimeout = 30 * time.Second
	// maxConversion bounds what a conversion webhook may answer, in bytes: the objects of one review, grown.
	maxConversion = 16 << 20
)

// connectConversion leads to the conversion webhook of a definition.
func (m *Master) connectConversion(crd *apiextensionsv1.CustomResourceDefinition) (custom.Webhook, error) {
	config := &webhook.Config{}
	if h := crd.Spec.Conversion.Webhook; h != nil && h.ClientConfig != nil {
		config.URL = h.ClientConfig.URL
		if s := h.ClientConfig.Service; s != nil {
			config.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name, Path: s.Path, Port: s.Port}
		}
		if len(bytes.TrimSpace(h.ClientConfig.CABundle)) > 0 {
			config.CABundle = h.ClientConfig.CABundle
		}
	}
	client, err := webhook.New(config, m.sessions.DialService)
	if err != nil {
		return nil, err
	}
	name := crd.Name
	return func(ctx context.Context, review []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, conversionTimeout)
		defer cancel()
		answer, err := client.Post(ctx, "", review, maxConversion)
		if err != nil {
			m.log.Warn("failed calling conversion webhook", "definition", name, "err", err)
		}
		return answer, err
	}, nil
}

package master

import (
	"context"

	"github.com/whalepod/whalepod/master/internal/controllers/binding"
	"github.com/whalepod/whalepod/master/internal/controllers/deployment"
	"github.com/whalepod/whalepod/master/internal/controllers/endpoints"
	"github.com/whalepod/whalepod/master/internal/controllers/replicaset"
)

// controllers by name. None knows another: they meet in the registry.
func (m *Master) controllers() map[string]func(context.Context) error {
	r, log := m.registry, m.cfg.Logger
	return map[string]func(context.Context) error{
		"deployment": deployment.New(deployment.Config{Registry: r, Logger: log}).Run,
		"replicaset": replicaset.New(replicaset.Config{Registry: r, Logger: log}).Run,
		"endpoints":  endpoints.New(endpoints.Config{Registry: r, Logger: log}).Run,
		"scheduler":  binding.New(binding.Config{Registry: r, Logger: log}).Run,
	}
}

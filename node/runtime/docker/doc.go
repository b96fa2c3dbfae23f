// Package docker implements runtime.Engine over the API of Docker Engine, from 1.13 (API 1.25, CentOS 7) to today's.
//
// A pod is a pause container without network (the agent plumbs one) and containers that join its namespaces. Every
// container carries labels that say whose it is; the engine is the only store of that, so a restarted agent finds its
// pods by listing. Nothing else in the agent speaks to Docker.
//
// It must not poll, must not inspect what it already knows (see states), and touches no container without its own
// node's label.
package docker

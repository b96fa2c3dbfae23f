// Package agentv1 is the protocol between the master and the agents, generated from agent.proto.
package agentv1

//go:generate go run github.com/whalepod/whalepod/proto/gen agent.proto

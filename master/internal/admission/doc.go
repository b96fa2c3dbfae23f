// Package admission lets others decide about requests: it evaluates Mutating- and ValidatingAdmissionPolicies and calls the
// webhooks of Mutating- and ValidatingWebhookConfigurations on the way from the API server to the registry. It never asks
// anybody from inside a transaction: who mutates sees what a client sent, or what a patch makes of the current state; who
// validates, what the registry is about to write, after its own rules. When the object changes meanwhile, all of it happens
// again.
//
// It imports the registry, the table of kinds and the API server's vocabulary; how Services are reached is given to it.
package admission

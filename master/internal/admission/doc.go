// Package admission lets others decide about requests: it calls the webhooks of Mutating- and ValidatingWebhookConfigurations
// on the way from the API server to the registry. It never calls anybody from inside a transaction: mutating webhooks see
// what a client sent, or what a patch makes of the current state; validating ones what the registry is about to write,
// after its own rules. When the object changes meanwhile, all of it happens again.
//
// It imports the registry, the table of kinds and the API server's vocabulary; how Services are reached is given to it.
package admission

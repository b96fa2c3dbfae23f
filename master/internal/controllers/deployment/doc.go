// Package deployment rolls Deployments out: it makes a ReplicaSet for each pod template, moves replicas from the old ones
// to the new within maxSurge and maxUnavailable, and tells how far it has come.
//
// It writes: replicasets (create, scale, annotations, owner references, deletion of the oldest) and deployments/status,
// besides the annotations that kubectl rollout reads, and the template when an old client asks for a rollback.
//
// Everything but controller.go is pure: a plan is made on copies (world) and what differs afterwards is written, all in
// one transaction. Behaviour, reasons and messages are those of Kubernetes' pkg/controller/deployment.
package deployment

// Package replicaset keeps as many pods of each ReplicaSet and each ReplicationController as it asks for, and reports in
// its status how many there are. The two kinds have a controller each, of the same code.
//
// It writes: pods (create, delete, their owner references), replicasets/status and replicationcontrollers/status. plan.go
// decides, controller.go does, owner.go knows the kinds.
package replicaset

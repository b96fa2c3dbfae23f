// Package replicaset keeps as many pods of each ReplicaSet as it asks for, and reports in its status how many there are.
//
// It writes: pods (create, delete, their owner references) and replicasets/status. plan.go decides, controller.go does.
package replicaset

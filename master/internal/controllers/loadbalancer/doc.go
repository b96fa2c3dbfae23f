// Package loadbalancer gives Services of type LoadBalancer the addresses under which they are reached, which in Kubernetes a
// cloud does. With a pool (wp-master --lb-pool) each Service has an address of its own, which nodes announce; without one
// all have the addresses of the nodes that are ready.
//
// status.loadBalancer.ingress is the only record of what is taken. It is read, by the store's index, in the transaction that
// writes it: so nothing is given twice, nothing is lost with a restart, and what is deleted is free. There is nothing outside
// the cluster to be cleaned up after a Service, hence no finalizer service.kubernetes.io/load-balancer-cleanup, with which
// cloud controllers hold Services back.
package loadbalancer

// Package rbac decides who may do what by Roles, ClusterRoles and their bindings, as Kubernetes' RBAC authorizer does.
//
// A decision reads the registry's last committed state, so a change counts from the next request on. What is kept beside it is
// an index of that state by subject, so that what others may do costs a request nothing.
//
//   - rule.go: whether a rule allows something; pure.
//   - index.go: which rules somebody has.
//   - authorizer.go: the decision with its reason.
//   - guard.go: a server.Backend that lets nobody grant what they do not have.
//   - policy.go: the roles and bindings that every cluster begins with; reconcile.go completes them at each start.
//
// It knows nothing of HTTP and tokens. That members of system:masters may do everything is the API server's own rule.
package rbac

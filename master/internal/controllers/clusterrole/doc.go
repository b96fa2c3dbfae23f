// Package clusterrole gathers the rules of ClusterRoles that have an aggregationRule: those of all the roles that its selectors
// find, in the order of their names. So a new kind of object is in view, edit and admin once a role says so by a label.
//
// It writes: rules of those roles.
package clusterrole

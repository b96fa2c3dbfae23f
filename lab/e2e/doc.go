// Package e2e tests Whalepod as its users meet it: real Docker Engines, real
// iptables, and kubectl as others built it, on a lab of three nodes.
//
// Each test is named after what a user sees. All of them share one lab, which is
// made before the first and taken down after the last, also when a test hangs or
// panics: the tests run in a child of the process that owns the lab. Tests that
// use port 30080 or change a node run one after the other; each leaves the cluster
// as it found it. After them come those that say t.Parallel: their pods stay on nodes
// that they name, and what breaks the third node's engine has that node for itself.
//
// Everything is behind the build tag e2e, and needs root:
//
//	make test-e2e
//	go test -tags e2e -count=1 -v -run WordPress ./lab/e2e   (after make build)
//
// Variables for who writes tests: WP_E2E_LAB=DIR uses the lab in this directory,
// brings it up if it is not, and leaves it running. WP_E2E_PREFIX sets the prefix
// of its namespaces, so that two may run at a time.
package e2e

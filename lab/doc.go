// Package lab is a cluster on one machine: what the demo shows and what the
// end-to-end tests run on.
//
// Each node is a network, mount, process and host-name namespace of its own with
// a real Docker Engine and a real wp-agent in it; wp-master runs in the first.
// They hang on a bridge in one more network namespace, where clients and the
// image registry live. Nothing in there has a way out of the machine.
//
//	      wp-lab 198.51.100.1 (bridge, registry, clients)
//	       │             │             │
//	    wp-node1      wp-node2      wp-node3
//	198.51.100.11      …12           …13
//	master, agent     agent         agent
//	  dockerd        dockerd       dockerd
//
// With Config.Links 2, or when a node is moved there, some of the nodes hang on
// another switch behind a router: see links.go.
//
// The process namespace is what makes a lab easy to end: a node's first process
// is a shell that does nothing, and when it is killed the kernel kills engine,
// agent and all containers with it and takes the mounts away, in one step. That
// is also how a power cut is played. Nothing is ever ended by its name.
//
// The package starts our binaries and imports none of our packages (but
// lab/images): it must see the cluster as its users do.
package lab

// Package hollow plays nodes: many agents in one process, with real certificates and real sessions with a real master, but no
// containers. What a master can carry is measured with it, and what a cluster of a thousand servers looks like can be tried
// on one.
//
// A hollow node says of every pod that it runs as soon as it has been told of it, of every pod of a Job that it has
// succeeded a moment later, and of every deleted one that it is gone. It takes no part in the gossip, resolves no names and
// routes nothing.
package hollow

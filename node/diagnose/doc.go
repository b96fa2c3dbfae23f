// Package diagnose is what a node does so that somebody can see why something does not work: it asks names, dials
// addresses, reads the rules and sockets of its kernel, and examines the machine. The master's node proxy leads to it:
//
//	POST /diagnose/v1/trace    Question → Answer
//	POST /diagnose/v1/doctor   Exam → Health
//
// It only finds out; what it means is decided by those who asked (diagnose/trace for a Service, diagnose/doctor for a
// machine), since they see all nodes. Everything is bounded: a question has at most MaxTargets of each kind, and an answer
// takes AnswerWithin at the most.
//
// It is no proxy: nothing that is sent comes from who asks, nothing that is received is given back, and only addresses
// are dialed that belong to the cluster (see Scope). Whoever may use nodes/proxy may run commands in pods and connect
// from there anyway.
//
// The package is a leaf but for the vocabulary of doctor: wpctl imports it too.
package diagnose

// Command bench measures what docs/PERFORMANCE.md records, and prints it as one
// table beside the budgets. "make bench" runs it, as root: it makes network
// namespaces, starts Docker Engines and a lab.
//
// It has sections (-only names some of them). The parts that are libraries have Go
// benchmarks of their own, which it runs and reads; the programs are measured from
// outside, as their users meet them: over TLS, with the system's view of their
// memory and processor time.
package main

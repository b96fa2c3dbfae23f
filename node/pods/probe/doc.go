// Package probe asks containers how they are: what one probe of each kind does (Prober), what its answers add up to
// (Counter), and when they are asked (Run). It also runs lifecycle hooks, which are the same requests with another end.
// It decides nothing about containers.
package probe

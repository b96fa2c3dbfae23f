// Package quickjson writes Kubernetes' API types as JSON, byte for byte as encoding/json does, in less time and with
// hardly any garbage. Lists of thousands of pods are what the API server spends its time on, and half of what
// encoding/json spends on them goes into checking and copying the output of the MarshalJSON methods of times, quantities
// and the like. Those few types are written directly here; whatever else is unusual is left to encoding/json. The tests
// compare both on random objects of every served kind.
package quickjson

// Package pods is what the kubelet does with pods: it makes the engine run the pods that are desired on this node, keeps
// them running by their restart policies and probes, ends them with grace, and reports how they are.
//
// Every pod has one worker, a goroutine that takes turns. A turn looks at what is desired and what the engine shows, does
// what is missing, and returns; it can be repeated or broken off anywhere, so an agent killed at any moment goes on where
// it was. What lasts (pulls, hooks, probes, waiting for a container to end) runs beside the worker and wakes it. Nothing
// polls: turns come from desired state, from the engine's events, from results, and from timers for back-offs.
//
// It must not talk to the master (Reporter, Recorder and volume.TokenSource are given), nor touch the kernel's network
// (Network is given), nor know Docker (runtime.Engine is given).
package pods

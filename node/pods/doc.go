// Package pods is what the kubelet does with pods: it makes the engine run the pods that are desired on this node, keeps
// them running by their restart policies and probes, ends them with grace, and reports how they are.
//
// Every pod has one worker, a goroutine that takes turns. A turn looks at what is desired and what the engine shows, does
// what is missing, and returns; it can be repeated or broken off anywhere, so an agent killed at any moment goes on where
// it was. What lasts (pulls, hooks, probes, waiting for a container to end) runs beside the worker and wakes it. Nothing
// polls: turns come from desired state, from the engine's events, from results, and from timers for back-offs.
//
// Goroutines: Run, one that reads the engine's events, one for each pod; beside a worker, while they last, one for each pull
// it waits for, each container being ended, each postStart hook, and one or two for each container that has probes.
// A worker's inbox is overwritten, never queued, except for engine events, of which there are as many as containers change.
// Workers make the engine start at most ParallelStarts things at a time, and pull ParallelPulls images.
//
// On disk: DataDir/pods/UID (volumes, hosts, resolv.conf, termination messages), DataDir/status/UID (last status),
// DataDir/grants/UID (what it was granted by resizes, and which attempts are ended to run again). Whatever else must be known
// of a container is in its labels.
//
// It must not talk to the master (Reporter, Recorder and volume.TokenSource are given), nor touch the kernel's network
// (Network is given), nor know Docker (runtime.Engine is given).
package pods

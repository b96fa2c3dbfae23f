// Package fake is a runtime.Engine in memory, for component tests in virtual time (testing/synctest): it does no real
// I/O, starts no goroutine that outlives a call, and measures time with package time only. It passes runtimetest.
//
// What a container does comes from a Program that the test gives by container name (Engine.Script), or else from its
// command: a few words of shell are understood (echo, sleep, exit, trap, cat, …, see shell.go); any other command runs
// until it is stopped. Commands with "no-such" in their name cannot be executed.
//
//	e := fake.New("node-1")
//	e.AddImage("nginx")
//	e.Script("web", func(runtime.ContainerSpec) fake.Program { return fake.Program{After: time.Second, ExitCode: 1} })
package fake

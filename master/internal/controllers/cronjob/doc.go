// Package cronjob makes Jobs by the clock: for each CronJob the Job of the last time that was due and not yet served, as its
// concurrency policy and deadline allow, and it deletes finished Jobs beyond the limits of its history.
//
// It writes: jobs (create from the template, delete) and cronjobs/status. A Job and its place in the status are written in
// one transaction, so no time is served twice and no Job is forgotten. schedule.go knows the times, plan.go decides,
// controller.go does.
//
// Nothing polls: a CronJob sleeps until it is due. As clocks are set and machines sleep, it does so for a minute at most.
package cronjob

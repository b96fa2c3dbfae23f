// Package quota recounts what ResourceQuotas say is used, where the registry's own counting, in the transactions that use it,
// cannot know: of pods that should have been gone a grace period ago (on a lost node, say), which are charged for no longer,
// and of statuses that somebody else has written.
//
// It writes: status of ResourceQuotas.
package quota

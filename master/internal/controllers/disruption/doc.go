// Package disruption counts for PodDisruptionBudgets: how many healthy pods there are, how many there must be, and how many
// may be disrupted now. The eviction subresource (registry) spends what it finds here, in its own transactions.
//
// It also takes back the condition DisruptionTarget of pods that were to be disrupted and were not.
package disruption

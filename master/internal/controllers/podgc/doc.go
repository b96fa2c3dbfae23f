// Package podgc deletes pods that have ended, when there are more than a threshold: nobody else does, and controllers that replace
// what fails can make thousands in an hour. The oldest go, evicted ones first.
//
// It writes: nothing but deletions.
package podgc

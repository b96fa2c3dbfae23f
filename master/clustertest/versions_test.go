package clustertest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An Event is held to more in events.k8s.io/v1 than in v1, though both are the same object.
func TestRulesFollowTheVersion(t *testing.T) {
	run(t, 0, func(c *cluster) {
		meta := metav1.ObjectMeta{Name: "e", Namespace: "default"}
		about := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}
		_, err := c.kube.EventsV1().Events("default").Create(c.ctx, &eventsv1.Event{ObjectMeta: meta, Regarding: about, Reason: "Tested", Type: "Normal"}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) {
			t.Errorf("an event of events.k8s.io/v1 without eventTime: %v", err)
		}
		_, err = c.kube.CoreV1().Events("default").Create(c.ctx, &corev1.Event{ObjectMeta: meta, InvolvedObject: about, Reason: "Tested", Type: "Normal"}, metav1.CreateOptions{})
		if err != nil {
			t.Error(err)
		}
	})
}

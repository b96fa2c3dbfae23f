package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/cmd/rollout"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"

	"github.com/whalepod/whalepod/node/diagnose/why"
)

const (
	logLines = 10
	// maxPods are explained; what fails for one fails for the others, too.
	maxPods = 3
	// askTimeout bounds each question about a pod, and watchPause is the time before a watch is begun anew.
	askTimeout = 10 * time.Second
	watchPause = time.Second
	// revision of a Deployment and of each of its ReplicaSets.
	annRevision = "deployment.kubernetes.io/revision"
)

// explainRollouts lets "rollout status" say why a rollout does not succeed: which container of which pod, its reason, and the
// end of its log; as soon as a new pod is stuck, and when the rollout has failed. What kubectl prints stays as it is, and goes
// to another stream.
func explainRollouts(root *cobra.Command, f cmdutil.Factory, streams genericiooptions.IOStreams) {
	c, _, err := root.Find([]string{"rollout", "status"})
	if err != nil || c.Name() != "status" {
		return // the library has it no more
	}
	c.Run = func(c *cobra.Command, args []string) {
		o := statusOptions(c, streams)
		cmdutil.CheckErr(o.Complete(f, args))
		cmdutil.CheckErr(o.Validate())
		client, err := f.KubernetesClientSet()
		cmdutil.CheckErr(err)
		e := newExplainer(c.Context(), client, streams.ErrOut)
		inner := o.StatusViewerFn
		o.StatusViewerFn = func(m *meta.RESTMapping) (polymorphichelpers.StatusViewer, error) {
			v, err := inner(m)
			if err != nil {
				return nil, err
			}
			return spy{v, e}, nil
		}
		err = o.Run()
		e.finish(err != nil, !o.Watch)
		cmdutil.CheckErr(err)
	}
}

// statusOptions are those of the library's own command, from its flags.
func statusOptions(c *cobra.Command, streams genericiooptions.IOStreams) *rollout.RolloutStatusOptions {
	o := rollout.NewRolloutStatusOptions(streams)
	flags := c.Flags()
	o.Watch, _ = flags.GetBool("watch") // the flags are the library's: an error would be a bug
	o.Revision, _ = flags.GetInt64("revision")
	o.Timeout, _ = flags.GetDuration("timeout")
	o.LabelSelector, _ = flags.GetString("selector")
	o.FilenameOptions.Filenames, _ = flags.GetStringSlice("filename")
	o.FilenameOptions.Kustomize, _ = flags.GetString("kustomize")
	o.FilenameOptions.Recursive, _ = flags.GetBool("recursive")
	return o
}

// spy lets an explainer see what the library looks at.
type spy struct {
	polymorphichelpers.StatusViewer
	e *explainer
}

func (s spy) Status(obj runtime.Unstructured, revision int64) (string, bool, error) {
	text, done, err := s.StatusViewer.Status(obj, revision)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		s.e.see(u, done && err == nil)
	}
	return text, done, err
}

// explainer follows the pods of what is rolled out.
type explainer struct {
	client kubernetes.Interface
	out    io.Writer
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	owners map[types.UID]*unstructured.Unstructured // as seen last; nil when rolled out
	told   map[types.UID]bool                       // pods
	quota  map[string]bool                          // what was said of owners
}

func newExplainer(ctx context.Context, client kubernetes.Interface, out io.Writer) *explainer {
	if ctx == nil {
		ctx = context.Background()
	}
	e := &explainer{
		client: client, out: out, owners: map[types.UID]*unstructured.Unstructured{}, told: map[types.UID]bool{}, quota: map[string]bool{},
	}
	e.ctx, e.cancel = context.WithCancel(ctx)
	return e
}

// see an owner's state, and follow its pods from now on.
func (e *explainer) see(owner *unstructured.Unstructured, done bool) {
	e.mu.Lock()
	_, known := e.owners[owner.GetUID()]
	e.owners[owner.GetUID()] = owner.DeepCopy()
	if done {
		e.owners[owner.GetUID()] = nil
	}
	e.mu.Unlock()
	if !done {
		e.explainOwner(owner)
	}
	if selector := selectorOf(owner); !known && !done && selector != "" {
		uid, namespace := owner.GetUID(), owner.GetNamespace()
		e.wg.Go(func() { e.follow(uid, namespace, selector) })
	}
}

// selectorOf the pods of an owner; empty where it has none that can be understood.
func selectorOf(owner *unstructured.Unstructured) string {
	var s metav1.LabelSelector
	m, _, err := unstructured.NestedMap(owner.Object, "spec", "selector")
	if err == nil {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(m, &s)
	}
	var sel labels.Selector
	if err == nil {
		sel, err = metav1.LabelSelectorAsSelector(&s)
	}
	if err != nil || sel.Empty() {
		return ""
	}
	return sel.String()
}

// explainOwner says why no pods can be made.
func (e *explainer) explainOwner(owner *unstructured.Unstructured) {
	var d appsv1.Deployment
	if owner.GetKind() != "Deployment" || runtime.DefaultUnstructuredConverter.FromUnstructured(owner.Object, &d) != nil {
		return
	}
	for _, c := range d.Status.Conditions {
		if c.Type != appsv1.DeploymentReplicaFailure || c.Status != corev1.ConditionTrue {
			continue
		}
		e.mu.Lock()
		if !e.quota[c.Message] {
			e.quota[c.Message] = true
			fmt.Fprintf(e.out, "\nDeployment %s cannot make its pods: %s\n  %s\n", d.Name, c.Reason, c.Message)
		}
		e.mu.Unlock()
	}
}

// follow the pods until the rollout's end.
func (e *explainer) follow(uid types.UID, namespace, selector string) {
	for e.ctx.Err() == nil {
		// Watches end now and then. One that ends at once must not be begun again as fast as the master can answer; whoever
		// follows a rollout does not miss the moment, for the pods are listed first.
		_ = e.watch(uid, namespace, selector)
		select {
		case <-e.ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

func (e *explainer) watch(uid types.UID, namespace, selector string) error {
	pods := e.client.CoreV1().Pods(namespace)
	list, err := pods.List(e.ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	for i := range list.Items {
		e.judge(e.ctx, uid, &list.Items[i], false)
	}
	w, err := pods.Watch(e.ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	defer context.AfterFunc(e.ctx, w.Stop)()
	for event := range w.ResultChan() {
		switch pod, ok := event.Object.(*corev1.Pod); {
		case event.Type == watch.Error:
			return fmt.Errorf("watch: %v", event.Object)
		case ok && event.Type != watch.Deleted:
			e.judge(e.ctx, uid, pod, false)
		}
	}
	return nil
}

// finish after the library's command has ended. Of a failed rollout all is said about every pod that is not ready; when the
// user did not want to wait, what is plain already.
func (e *explainer) finish(failed, once bool) {
	e.cancel()
	e.wg.Wait()
	if !failed && !once {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	for uid, owner := range e.owners {
		if owner == nil {
			continue
		}
		list, err := e.client.CoreV1().Pods(owner.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(owner)})
		if err != nil {
			fmt.Fprintf(e.out, "\nThe pods could not be looked at: %v\n", err)
			continue
		}
		for i := range list.Items {
			e.judge(ctx, uid, &list.Items[i], failed)
		}
	}
}

// judge a pod, and tell once what is wrong with it.
func (e *explainer) judge(ctx context.Context, uid types.UID, pod *corev1.Pod, last bool) {
	found := why.Of(pod, last)
	e.mu.Lock()
	owner, skip := e.owners[uid], e.told[pod.UID] || len(e.told) >= maxPods
	e.mu.Unlock()
	if len(found) == 0 || owner == nil || skip || !e.isNew(ctx, owner, pod) {
		return
	}
	var text strings.Builder
	for _, t := range found {
		event := ""
		if last && !t.Previous {
			event = e.lastWarning(ctx, pod)
		}
		text.WriteString(t.Describe(pod, event, e.log(ctx, pod, t)))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ctx.Err() == nil && !e.told[pod.UID] {
		e.told[pod.UID] = true
		fmt.Fprint(e.out, text.String())
	}
}

// isNew tells whether a pod is of what is being rolled out, and not one that it replaces.
func (e *explainer) isNew(ctx context.Context, owner *unstructured.Unstructured, pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return false
	}
	switch owner.GetKind() {
	case "Deployment":
		rs, err := e.client.AppsV1().ReplicaSets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil || rs.UID != ref.UID {
			return false
		}
		up := metav1.GetControllerOf(rs)
		return up != nil && up.UID == owner.GetUID() && rs.Annotations[annRevision] == owner.GetAnnotations()[annRevision]
	case "StatefulSet":
		revision, _, _ := unstructured.NestedString(owner.Object, "status", "updateRevision")
		return ref.UID == owner.GetUID() && (revision == "" || pod.Labels[appsv1.ControllerRevisionHashLabelKey] == revision)
	}
	return ref.UID == owner.GetUID()
}

// log is the end of what the container wrote, nothing if it cannot be had.
func (e *explainer) log(ctx context.Context, pod *corev1.Pod, t why.Trouble) string {
	if !t.Logs {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	lines := int64(logLines)
	text, err := e.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: t.Container, Previous: t.Previous, TailLines: &lines}).DoRaw(ctx)
	if err != nil {
		return ""
	}
	return string(text)
}

// lastWarning is the newest one about the pod.
func (e *explainer) lastWarning(ctx context.Context, pod *corev1.Pod) string {
	list, err := e.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID), "type": corev1.EventTypeWarning}.String(),
	})
	if err != nil {
		return ""
	}
	var newest *corev1.Event
	for i := range list.Items {
		if ev := &list.Items[i]; newest == nil || newest.LastTimestamp.Before(&ev.LastTimestamp) {
			newest = ev
		}
	}
	if newest == nil {
		return ""
	}
	return newest.Reason + ": " + newest.Message
}

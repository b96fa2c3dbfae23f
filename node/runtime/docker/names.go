package docker

import (
	"maps"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/filters"

	"github.com/whalepod/whalepod/node/runtime"
)

// Labels of every container that is ours. Those of Kubernetes are the ones that the kubelet and cri-dockerd gave, which
// log collectors know.
const (
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
	labelType      = "io.kubernetes.docker.type"
	labelNode      = "io.whalepod.node"
	labelAttempt   = "io.whalepod.attempt"

	typeSandbox   = "podsandbox"
	typeContainer = "container"

	// sandboxName stands where a container's name is; POD is no name that a container can have.
	sandboxName = "POD"
	namePrefix  = "k8s"
)

var ownLabels = []string{labelPod, labelNamespace, labelUID, labelContainer, labelType, labelNode, labelAttempt}

// identity is whose container it is and which attempt.
type identity struct {
	pod       runtime.PodRef
	container string // sandboxName for a sandbox
	attempt   int
}

// name as `docker ps` shows it: k8s_<container>_<pod>_<namespace>_<uid>_<attempt>.
func (i identity) name() string {
	return strings.Join([]string{
		namePrefix, i.container, i.pod.Name, i.pod.Namespace, i.pod.UID, strconv.Itoa(i.attempt),
	}, "_")
}

func (i identity) sandbox() bool { return i.container == sandboxName }

func (i identity) labels(node string, given map[string]string) map[string]string {
	out := make(map[string]string, len(given)+len(ownLabels))
	maps.Copy(out, given)
	out[labelPod], out[labelNamespace], out[labelUID] = i.pod.Name, i.pod.Namespace, i.pod.UID
	out[labelContainer], out[labelAttempt], out[labelNode] = i.container, strconv.Itoa(i.attempt), node
	out[labelType] = typeContainer
	if i.sandbox() {
		out[labelType] = typeSandbox
	}
	return out
}

// identify reads an identity from labels. It is false for containers that are not ours, and for those that only carry
// our labels because their image does (`docker commit` puts a container's labels into the image): the name tells.
func identify(node, name string, labels map[string]string) (identity, bool) {
	attempt, err := strconv.Atoi(labels[labelAttempt])
	if err != nil || labels[labelNode] != node {
		return identity{}, false
	}
	i := identity{
		pod:       runtime.PodRef{Namespace: labels[labelNamespace], Name: labels[labelPod], UID: labels[labelUID]},
		container: labels[labelContainer],
		attempt:   attempt,
	}
	return i, strings.TrimPrefix(name, "/") == i.name()
}

// givenLabels are the labels without our own.
func givenLabels(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	for _, l := range ownLabels {
		delete(out, l)
	}
	return out
}

// mine selects the containers of this node, of one pod if uid is not empty.
func (d *Engine) mine(uid string) filters.Args {
	f := filters.NewArgs(filters.Arg("label", labelNode+"="+d.node))
	if uid != "" {
		f.Add("label", labelUID+"="+uid)
	}
	return f
}

package pods

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// dataPod mounts an image in its container c, at /data.
func dataPod(name, image string, policy corev1.PullPolicy) *corev1.Pod {
	p := pod(name, "c")
	p.Spec.Volumes = []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image, PullPolicy: policy}}},
		{Name: "unused", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "nobody/has:it", PullPolicy: policy}}},
	}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	return p
}

// unpacked lists the images whose files are there.
func (n *node) unpacked() []string {
	entries, err := os.ReadDir(imageVolumesDir(n.dir))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// spec of the container c as the engine was asked for it, each time.
func (n *node) asked() *runtime.ContainerSpec {
	spec := &runtime.ContainerSpec{}
	n.engine.Script("c", func(s runtime.ContainerSpec) fake.Program {
		*spec = s
		return fake.Program{}
	})
	return spec
}

func dataMount(s *runtime.ContainerSpec) runtime.Mount {
	for _, m := range s.Mounts {
		if m.ContainerPath == "/data" {
			return m
		}
	}
	return runtime.Mount{}
}

// An image is pulled once and its files are there for all pods that mount it, over restarts of the agent, until the last
// one goes. The volume that nobody mounts does not matter.
func TestImageVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.engine.Publish("files:1", fake.Published{Takes: 5 * time.Second, Image: runtime.Image{SizeBytes: 5}})
		n.engine.SetFiles("files:1", map[string]string{"data.json": "kitten", "etc/os-release": "Alpine"})
		spec := n.asked()
		n.start()
		one, two := dataPod("one", "files:1", corev1.PullIfNotPresent), dataPod("two", "files:1", corev1.PullIfNotPresent)
		n.apply(one, two)
		n.want("uid-one", "Pending c=ContainerCreating")
		seconds(5)
		n.want("uid-one", "Running c=running+")
		n.want("uid-two", "Running c=running+")
		if n.engine.Calls("Pull") != 1 || n.engine.Calls("ExportImage") != 1 || len(n.unpacked()) != 1 {
			t.Errorf("%d pulls, %d exports, unpacked %v", n.engine.Calls("Pull"), n.engine.Calls("ExportImage"), n.unpacked())
		}
		m := dataMount(spec)
		if text, err := os.ReadFile(filepath.Join(m.HostPath, "data.json")); err != nil || string(text) != "kitten" || !m.ReadOnly {
			t.Errorf("mount %+v: %q, %v", m, text, err)
		}
		if n.count(`Pulled: Successfully pulled image "files:1" in 5s (5s including waiting). Image size: 5 bytes.`) != 2 || n.count(`Pulling: Pulling image "files:1"`) != 2 {
			t.Errorf("events %v", n.takeEvents())
		}
		mounts := n.status("uid-one").ContainerStatuses[0].VolumeMounts
		if len(mounts) != 1 || mounts[0].VolumeStatus == nil || !strings.HasPrefix(mounts[0].VolumeStatus.Image.ImageRef, "docker-pullable://files@sha256:") {
			t.Errorf("status %+v", mounts)
		}
		n.restart()
		n.delete(one, 1)
		seconds(40)
		if len(n.unpacked()) != 1 || n.engine.Calls("ExportImage") != 1 {
			t.Errorf("unpacked %v, %d exports", n.unpacked(), n.engine.Calls("ExportImage"))
		}
		n.engine.Kill(n.id("uid-two", "c"), 1, false) // it starts again with what it had
		seconds(15)
		n.want("uid-two", "Running c=running+ x1")
		if n.engine.Calls("Pull") != 1 || dataMount(spec).HostPath != m.HostPath {
			t.Errorf("%d pulls, mount %+v", n.engine.Calls("Pull"), dataMount(spec))
		}
		if s := n.status("uid-two").ContainerStatuses[0].VolumeMounts[0].VolumeStatus; s == nil || s.Image.ImageRef != mounts[0].VolumeStatus.Image.ImageRef {
			t.Errorf("status after the restart %+v", s)
		}
		n.delete(two, 1)
		seconds(40)
		if left := n.unpacked(); len(left) != 0 {
			t.Errorf("left %v", left)
		}
		n.remove(desired.Pods, "default", "one")
		n.remove(desired.Pods, "default", "two")
	})
}

// The container that mounts it says why it waits, in the kubelet's words, and goes on when the image comes.
func TestImageVolumeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.apply(dataPod("never", "files:1", corev1.PullNever), dataPod("absent", "files:1", corev1.PullAlways), dataPod("bad", "A:B:C", corev1.PullAlways))
		n.want("uid-never", "Pending c=ErrImageNeverPull")
		n.want("uid-absent", "Pending c=ErrImagePull")
		n.want("uid-bad", "Pending c=InvalidImageName")
		if got := n.status("uid-never").ContainerStatuses[0].State.Waiting.Message; got != `Container image "files:1" is not present with pull policy of Never` {
			t.Error(got)
		}
		seconds(3)
		n.want("uid-absent", "Pending c=ImagePullBackOff")
		if n.count("Failed: Error: ErrImagePull") != 1 || n.count(`BackOff: Back-off pulling image "files:1"`) != 1 {
			t.Errorf("events %v", n.takeEvents())
		}
		n.engine.Publish("files:1", fake.Published{})
		seconds(60)
		n.want("uid-absent", "Running c=running+")
		n.want("uid-never", "Running c=running+")
		// A pod that goes while its image is on its way leaves nothing.
		n.engine.Publish("slow:1", fake.Published{Takes: time.Hour})
		p := dataPod("slow", "slow:1", corev1.PullAlways)
		n.apply(p)
		n.delete(p, 0)
		seconds(1)
		if n.goneCount("uid-slow") == 0 {
			t.Error("it is still there")
		}
	})
}

// What goes wrong after the pull: the engine's troubles, a subPath that the image has not, an image that went away.
func TestImageVolumeMountFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.engine.AddImage("files:1")
		n.engine.Fail("ExportImage", errors.New("no space left on device"))
		n.start()
		n.apply(dataPod("web", "files:1", corev1.PullIfNotPresent))
		n.want("uid-web", "Pending c=CreateContainerError")
		if got := n.status("uid-web").ContainerStatuses[0].State.Waiting.Message; got != "ImageVolumeMountFailed: no space left on device" {
			t.Error(got)
		}
		seconds(3)
		n.want("uid-web", "Running c=running+")

		sub := dataPod("sub", "files:1", corev1.PullIfNotPresent)
		sub.Spec.Containers[0].VolumeMounts[0].SubPath = "no/such"
		n.apply(sub)
		n.want("uid-sub", "Pending c=CreateContainerError")
		if got := n.status("uid-sub").ContainerStatuses[0].State.Waiting.Message; got != `ImageVolumeMountFailed: the image of volume "data" has no subPath "no/such"` {
			t.Error(got)
		}
		if n.count(`Failed: Error: ImageVolumeMountFailed: the image of volume "data" has no subPath "no/such"`) != 1 {
			t.Errorf("events %v", n.takeEvents())
		}
		seconds(30) // told once, tried again and again
		if n.count(`Failed: Error: ImageVolumeMountFailed: the image of volume "data" has no subPath "no/such"`) != 1 {
			t.Errorf("events %v", n.takeEvents())
		}

		n.engine.Publish("gone:1", fake.Published{})
		n.engine.Fail("ExportImage", runtime.ErrNotFound)
		n.apply(dataPod("back", "gone:1", corev1.PullIfNotPresent))
		n.want("uid-back", "Running c=running+")
		if n.engine.Calls("Pull") != 1 {
			t.Errorf("%d pulls", n.engine.Calls("Pull")) // it was not really gone
		}
	})
}

// A pod that is deleted while the files are made leaves none.
func TestImageVolumeLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.engine.AddImage("files:1")
		n.engine.Delay("ExportImage", time.Hour)
		n.start()
		p := dataPod("web", "files:1", corev1.PullIfNotPresent)
		n.apply(p)
		n.want("uid-web", "Pending c=ContainerCreating")
		if len(n.unpacked()) != 1 {
			t.Errorf("unpacking %v", n.unpacked())
		}
		n.delete(p, 0)
		seconds(1)
		if n.goneCount("uid-web") == 0 || len(n.unpacked()) != 0 {
			t.Errorf("gone %d, left %v", n.goneCount("uid-web"), n.unpacked())
		}
	})
}

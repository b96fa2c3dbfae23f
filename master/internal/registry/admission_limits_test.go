package registry_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// amounts reads "cpu", "1", "memory", "2Gi".
func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func limitRange(name string, items ...corev1.LimitRangeItem) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.LimitRangeSpec{Limits: items}}
}

func podWith(name string, requests, limits corev1.ResourceList) *corev1.Pod {
	p := pod(name)
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return p
}

func claimOf(name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: amounts("storage", size)},
		},
	}
}

func TestLimitDefaults(t *testing.T) {
	e := start(t)
	mustCreate(e, limitRange("a", corev1.LimitRangeItem{
		Type: corev1.LimitTypeContainer, Default: amounts("cpu", "500m", "memory", "500Mi"), DefaultRequest: amounts("cpu", "100m", "memory", "200Mi"),
	}))
	p := pod("plain")
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "nginx"}}
	p = mustCreate(e, p)
	want := corev1.ResourceRequirements{Limits: amounts("cpu", "500m", "memory", "500Mi"), Requests: amounts("cpu", "100m", "memory", "200Mi")}
	for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
		if diff := cmp.Diff(want, c.Resources); diff != "" {
			t.Error(c.Name, diff)
		}
	}
	const said = "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c; " +
		"cpu, memory request for init container i; cpu, memory limit for init container i"
	if got := p.Annotations["kubernetes.io/limit-ranger"]; got != said {
		t.Errorf("annotation %q", got)
	}
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("class %s: the defaults came too late", p.Status.QOSClass)
	}
	// A limit alone is the request too, before the namespace's default.
	p = mustCreate(e, podWith("partial", amounts("memory", "150Mi"), amounts("cpu", "300m")))
	want = corev1.ResourceRequirements{Limits: amounts("cpu", "300m", "memory", "500Mi"), Requests: amounts("cpu", "300m", "memory", "150Mi")}
	if diff := cmp.Diff(want, p.Spec.Containers[0].Resources); diff != "" {
		t.Error(diff)
	}
	if got := p.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: memory limit for container c" {
		t.Errorf("annotation %q", got)
	}
	// Another namespace knows nothing of it.
	mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	other := pod("plain")
	other.Namespace = "other"
	if other = mustCreate(e, other); len(other.Spec.Containers[0].Resources.Limits) > 0 {
		t.Error("limits of another namespace")
	}
}

func TestLimits(t *testing.T) {
	container := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer}
	with := func(item corev1.LimitRangeItem, fn func(*corev1.LimitRangeItem)) corev1.LimitRangeItem {
		fn(&item)
		return item
	}
	minItem := with(container, func(i *corev1.LimitRangeItem) { i.Min = amounts("cpu", "50m") })
	ratio := with(container, func(i *corev1.LimitRangeItem) { i.MaxLimitRequestRatio = amounts("cpu", "1.5") })
	podItem := corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: amounts("memory", "1Gi")}
	two := podWith("two", amounts("memory", "600Mi"), amounts("memory", "600Mi"))
	two.Spec.Containers = append(two.Spec.Containers, *two.Spec.Containers[0].DeepCopy())
	two.Spec.Containers[1].Name = "d"
	for _, test := range []struct {
		name string
		item corev1.LimitRangeItem
		obj  registry.Object
		want string // "" is admitted
	}{
		{"enough", minItem, podWith("p", amounts("cpu", "50m"), nil), ""},
		{"a minimum is the default", minItem, pod("p"), ""},
		{"no request", corev1.LimitRangeItem{Type: corev1.LimitTypePod, Min: amounts("cpu", "50m")}, pod("p"), "minimum cpu usage per Pod is 50m.  No request is specified"},
		{"too little", minItem, podWith("p", amounts("cpu", "49m"), nil), "minimum cpu usage per Container is 50m, but request is 49m"},
		{"max, two words", with(container, func(i *corev1.LimitRangeItem) { i.Max = amounts("cpu", "1", "memory", "1Gi") }),
			podWith("p", nil, amounts("cpu", "2", "memory", "2Gi")),
			"[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi, but limit is 2Gi]"},
		{"ratio holds", ratio, podWith("p", amounts("cpu", "100m"), amounts("cpu", "150m")), ""},
		{"ratio", ratio, podWith("p", amounts("cpu", "100m"), amounts("cpu", "200m")), "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000"},
		{"ratio of nothing", ratio, podWith("p", amounts("cpu", "100m"), nil), "cpu max limit to request ratio per Container is 1500m, but no limit is specified or limit is 0"},
		{"a pod's sum", podItem, two, "maximum memory usage per Pod is 1Gi, but limit is 1200Mi"},
		{"a pod without limit", podItem, pod("p"), "maximum memory usage per Pod is 1Gi.  No limit is specified"},
		{"claim", corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage", "1Gi"), Max: amounts("storage", "2Gi")}, claimOf("c", "2Gi"), ""},
		{"large claim", corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Max: amounts("storage", "2Gi")}, claimOf("c", "3Gi"),
			"maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
		{"small claim", corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage", "2Gi")}, claimOf("c", "1Gi"),
			"minimum storage usage per PersistentVolumeClaim is 2Gi, but request is 1Gi"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := start(t)
			mustCreate(e, limitRange("a", test.item))
			_, err := e.create(test.obj)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantErr(t, err, metav1.StatusReasonForbidden, test.obj.GetName()+"\" is forbidden: "+test.want)
		})
	}
}

// A resize is asked the same, what does not change resources is not, and a deleted LimitRange has no say.
func TestLimitsOfChanges(t *testing.T) {
	e := start(t)
	p := mustCreate(e, podWith("p", amounts("cpu", "2"), amounts("cpu", "2")))
	limits := mustCreate(e, limitRange("a", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: amounts("cpu", "1")}))
	mustChange(e, "", p, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" })
	mustChange(e, "status", p, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	resize := func(cpu string) error {
		_, err := change(e, "resize", p, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts("cpu", cpu), Limits: amounts("cpu", cpu)}
		})
		return err
	}
	wantErr(t, resize("1500m"), metav1.StatusReasonForbidden, "maximum cpu usage per Container is 1, but limit is 1500m")
	if err := resize("1"); err != nil {
		t.Error(err)
	}
	if _, err := e.delete(limits, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := resize("2"); err != nil {
		t.Error(err)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

// imagePod is a pod on one node with one image.
func imagePod(n *lab.Node, name, image, policy string, more ...string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  %s
  containers: [{name: main, image: %q, imagePullPolicy: %s, command: [sleep, "600"]}]
`, name, n.Name, strings.Join(more, "\n  "), image, policy)
}

// waitsFor waits until a pod's container waits for this reason and says so in words that match.
func waitsFor(t testing.TB, k cli, pod, reason, words string) {
	t.Helper()
	eventually(t, settle, pod+" waits with "+reason, func() error {
		got := k.run(t, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}")
		if ok, err := regexp.MatchString("^"+reason+": "+words, got); err != nil || !ok {
			return errors.Join(errors.New(got), err)
		}
		return nil
	})
}

// eventsOf returns the reasons and messages of a pod's events.
func eventsOf(t testing.TB, k cli, pod string) string {
	t.Helper()
	return k.run(t, "get", "events", "--field-selector", "involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// forgetImages removes images from a node's engine, where nobody uses them any more.
func forgetImages(t testing.TB, n *lab.Node, names ...string) {
	t.Cleanup(func() {
		for _, name := range names {
			_ = n.Engine(context.Background(), "DELETE", "/images/"+name+"?force=1", nil, nil) // it may not have come
		}
	})
}

// TestPrivateRegistry: pull secrets of every form; and what one pod's secret brought is not there for another.
func TestPrivateRegistry(t *testing.T) {
	registry, err := cluster.StartPrivateRegistry(t.Context())
	must(t, err)
	n := cluster.Node(2)
	image, second := registry+"/library/busybox:1.36", registry+"/library/redis:latest"
	forgetImages(t, n, image, second)
	k := newest.in(t, namespace(t))
	docker := func(k cli, name, server, password string) {
		k.run(t, "create", "secret", "docker-registry", name, "--docker-server="+server, "--docker-username="+lab.RegistryUser, "--docker-password="+password)
	}
	docker(k, "right", registry, lab.RegistryPassword)
	docker(k, "wrong", registry, "guess")
	docker(k, "elsewhere", "198.51.100.1:5999", "other")
	k.run(t, "create", "secret", "generic", "old", "--type=kubernetes.io/dockercfg", fmt.Sprintf(
		"--from-literal=.dockercfg={%q:{%q:%q,%q:%q}}", "http://"+registry+"/v1/", "username", lab.RegistryUser, "password", lab.RegistryPassword))

	// First those who have no rights: no image may be there that answers for them.
	k.feed(t, imagePod(n, "none", image, "IfNotPresent")+
		imagePod(n, "guess", image, "Always", "imagePullSecrets: [{name: wrong}, {name: absent}]")+
		imagePod(n, "missing", registry+"/library/nosuch:1", "IfNotPresent", "imagePullSecrets: [{name: right}]")+
		imagePod(n, "unreachable", "198.51.100.1:5999/x:1", "IfNotPresent"), "create", "-f", "-")
	failed := "image pull failed for " + regexp.QuoteMeta(image) + " because the registry denies access "
	waitsFor(t, k, "none", "ErrImagePull|ImagePullBackOff", ".*"+failed+"and no pull secret of the pod is for it: ")
	waitsFor(t, k, "none", "ImagePullBackOff", `Back-off pulling image "`+regexp.QuoteMeta(image)+`": ErrImagePull: `+failed)
	waitsFor(t, k, "guess", "ImagePullBackOff", ".*"+failed+"with the credentials given: .*unauthorized")
	waitsFor(t, k, "missing", "ImagePullBackOff", ".*because the registry has no such image: .*manifest unknown")
	waitsFor(t, k, "unreachable", "ImagePullBackOff", ".*because the registry is unavailable: .*connection refused")
	tells(t, "events", eventsOf(t, k, "none"), `Pulling: Pulling image "`+image, `Failed: Failed to pull image "`+image+`": image pull failed`,
		"Failed: Error: ErrImagePull", `BackOff: Back-off pulling image "`+image, "Failed: Error: ImagePullBackOff")
	tells(t, "events", eventsOf(t, k, "guess"), "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (absent); attempting to pull the image may not succeed.")
	prints(t, "logs", k.fails(t, "logs", "none"), `^Error from server \(BadRequest\): container "main" in pod "none" is waiting to start: trying and failing to pull image$`)
	k.run(t, "delete", "pods", "--all", "--now")

	// Those who have them.
	k.feed(t, imagePod(n, "several", image, "IfNotPresent", "imagePullSecrets: [{name: elsewhere}, {name: wrong}, {name: right}]")+
		imagePod(n, "old", second, "Always", "imagePullSecrets: [{name: old}]"), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	prints(t, "events", eventsOf(t, k, "several"), `^Pulled: Successfully pulled image "`+regexp.QuoteMeta(image)+`" in \S+s \(\S+s including waiting\)\. Image size: \d+ bytes\.$`)
	id := k.run(t, "get", "pod", "several", "-o", "jsonpath={.status.containerStatuses[0].imageID}")
	digest := strings.TrimPrefix(id, "docker-pullable://")
	prints(t, "imageID", digest, `^`+regexp.QuoteMeta(registry)+`/library/busybox@sha256:[0-9a-f]{64}$`)

	// The image is there now; not for who cannot prove the right to it, also after the agent was started anew.
	must(t, n.RestartAgent(t.Context()))
	awaitNode(t, n)
	k.run(t, "patch", "serviceaccount", "default", "-p", `{"imagePullSecrets":[{"name":"right"}]}`)
	other := newest.in(t, besides(t, k))
	docker(other, "mine", registry, lab.RegistryPassword)
	other.feed(t, imagePod(n, "none", image, "IfNotPresent")+imagePod(n, "never", image, "Never")+
		imagePod(n, "same", image, "IfNotPresent", "imagePullSecrets: [{name: mine}]"), "create", "-f", "-")
	k.feed(t, imagePod(n, "account", digest, "IfNotPresent")+
		imagePod(n, "pinned", image+digest[strings.LastIndex(digest, "@"):], "IfNotPresent")+imagePod(n, "prove", image, "Never", "imagePullSecrets: [{name: right}]"), "create", "-f", "-")
	waitsFor(t, other, "never", "ErrImageNeverPull", `Container image ".*" is not present with pull policy of Never`)
	waitsFor(t, other, "none", "ErrImagePull|ImagePullBackOff", ".*"+failed+"and no pull secret")
	other.run(t, "wait", "--for=condition=Ready", "pod/same", "--timeout", settle.String())
	k.run(t, "wait", "--for=condition=Ready", "pod/account", "pod/pinned", "pod/prove", "--timeout", settle.String())
	prints(t, "the account's secrets", k.run(t, "get", "pod", "account", "-o", "jsonpath={.spec.imagePullSecrets}"), `\[\{"name":"right"\}\]`)
	for _, p := range []struct {
		k   cli
		pod string
	}{{other, "same"}, {k, "prove"}} {
		tells(t, "events of "+p.pod, eventsOf(t, p.k, p.pod), `Pulled: Container image "`+image+`" already present on machine and can be accessed by the pod`)
	}

	// And what the node itself has a password for is for all its pods.
	file := filepath.Join(n.Dir(), "agent", "config.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry,
		base64.StdEncoding.EncodeToString([]byte(lab.RegistryUser+":"+lab.RegistryPassword))), 0o600))
	t.Cleanup(func() { must(t, os.Remove(file)) })
	other.feed(t, imagePod(n, "node", second, "IfNotPresent"), "create", "-f", "-")
	other.run(t, "wait", "--for=condition=Ready", "pod/node", "--timeout", settle.String())
}

// besides makes another namespace beside a test's own.
func besides(t testing.TB, k cli) string {
	t.Helper()
	name := nameOf(t, k) + "-2"
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() { cleanUp(t, "delete", "namespace", name, "--timeout=3m") })
	return name
}

// TestLoadedImageIsKnownAtOnce: pods that wait for an image go on when it is brought, and do not wait for the next time
// that they would look.
func TestLoadedImageIsKnownAtOnce(t *testing.T) {
	k, n := newest.in(t, namespace(t)), cluster.Node(2)
	const name = "brought:v1"
	file := archive(t, cluster.Node(1), "busybox:latest", name)
	forgetImages(t, n, name)
	k.feed(t, imagePod(n, "never", name, "Never")+imagePod(n, "pulling", name, "IfNotPresent"), "create", "-f", "-")
	waitsFor(t, k, "never", "ErrImageNeverPull", "")
	waitsFor(t, k, "pulling", "ErrImagePull|ImagePullBackOff", "")
	// From the second failure on it would look again only 20 s later.
	eventually(t, settle, "it has failed twice", func() error {
		times := 0
		for line := range strings.Lines(k.run(t, "get", "events", "--field-selector", "involvedObject.name=pulling", "-o", `jsonpath={range .items[*]}{.count} {.message}{"\n"}{end}`)) {
			if count, message, _ := strings.Cut(line, " "); strings.HasPrefix(message, "Failed to pull image") {
				n, _ := strconv.Atoi(count) // it is a number
				times += n
			}
		}
		if times < 2 {
			return fmt.Errorf("%d times", times)
		}
		return nil
	})
	wpctl.run(t, "image", "load", file, "--node", n.Name)
	begin := time.Now()
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	took := time.Since(begin)
	if t.Logf("it took %s", took.Round(time.Millisecond)); took > time.Minute {
		t.Errorf("it took %s", took)
	}
}

// TestImagePulledOnce: of many pods at once that need an image.
func TestImagePulledOnce(t *testing.T) {
	k, n := newest.in(t, namespace(t)), cluster.Node(3)
	const image = "busybox:1.28"
	_ = n.Engine(t.Context(), "DELETE", "/images/"+image+"?force=1", nil, nil) // it may not be there
	begin, pods := time.Now().Unix(), ""
	for i := range 6 {
		pods += imagePod(n, fmt.Sprintf("many%d", i), image, "IfNotPresent")
	}
	k.feed(t, pods, "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	url := fmt.Sprintf(`http://docker/events?since=%d&until=%d&filters={"event":["pull"]}`, begin, time.Now().Unix()+1)
	events, err := output(n.Command(t.Context(), "curl", "-sSfg", "--unix-socket", n.Socket(), url))
	must(t, err)
	if pulls := strings.Count(events, `"id":"`+image+`"`); pulls != 1 {
		t.Errorf("%d pulls:\n%s", pulls, events)
	}
}

package clustertest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/whalepod/whalepod/node/pods"
)

// as is a client that shows a token.
func (c *cluster) as(token string) *kubernetes.Clientset {
	c.Helper()
	config := &rest.Config{
		Host: "https://127.0.0.1:6443", BearerToken: token, Dial: c.dialAPI, Proxy: http.ProxyURL(nil), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(c.dir, "master", "pki", "ca.crt")},
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(client.CloseIdleConnections)
	kube, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		c.Fatal(err)
	}
	return kube
}

// credentials reads what a pod's containers find at /var/run/secrets/kubernetes.io/serviceaccount.
func (a *agent) credentials(pod *corev1.Pod) map[string]string {
	a.c.Helper()
	files := map[string]string{}
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		if m.MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
			continue
		}
		for _, name := range []string{"token", "ca.crt", "namespace"} {
			data, err := os.ReadFile(filepath.Join(pods.VolumesDir(a.dir), string(pod.UID), "volumes", "kubernetes.io~projected", m.Name, name))
			if err != nil {
				a.c.Fatal(err)
			}
			files[name] = string(data)
		}
	}
	return files
}

// A pod finds a token by which the API knows it, for as long as the pod lives; its node gets tokens of no other node's pods.
func TestPodSpeaksWithTheAPI(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(deployment("web", 2))
		c.eventually(20*time.Second, "both ready", func() bool { return total(c.ready("web")) == 2 })
		pod := c.podsOf("web")[0]
		a := c.agents[pod.Spec.NodeName]
		found := a.credentials(&pod)
		ca, _ := os.ReadFile(filepath.Join(c.dir, "master", "pki", "ca.crt"))
		if found["ca.crt"] != string(ca) || found["namespace"] != "default" {
			t.Errorf("the pod finds %q", found)
		}
		me, err := c.as(found["token"]).AuthenticationV1().SelfSubjectReviews().Create(c.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if u := me.Status.UserInfo; u.Username != "system:serviceaccount:default:default" ||
			strings.Join(u.Groups, " ") != "system:serviceaccounts system:serviceaccounts:default system:authenticated" ||
			u.Extra["authentication.kubernetes.io/pod-name"][0] != pod.Name || u.Extra["authentication.kubernetes.io/node-name"][0] != a.name {
			t.Errorf("the API knows it as %+v", u)
		}
		if _, err := c.as(found["token"]).CoreV1().Secrets("kube-system").List(c.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("without any role it may list secrets: %v", err)
		}

		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: found["token"], Audiences: []string{"vault"}}}
		if r, err := c.kube.AuthenticationV1().TokenReviews().Create(c.ctx, review, metav1.CreateOptions{}); err != nil || r.Status.Authenticated {
			t.Errorf("the token is good for another audience: %v, %v", r, err)
		}

		grace := int64(0)
		if err := c.kube.CoreV1().Pods("default").Delete(c.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
		c.eventually(30*time.Second, "the token ends with the pod", func() bool {
			_, err := c.as(found["token"]).AuthenticationV1().SelfSubjectReviews().Create(c.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return apierrors.IsUnauthorized(err)
		})
	})
}

// A token is renewed while the pod runs, and survives an agent that restarts while the master is away.
func TestTokenIsRenewed(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(deployment("web", 1))
		c.eventually(20*time.Second, "ready", func() bool { return total(c.ready("web")) == 1 })
		pod, a := c.podsOf("web")[0], c.agents["n1"]
		first := a.credentials(&pod)["token"]
		a.stop()
		c.stopMaster()
		c.start(a)
		time.Sleep(time.Minute)
		if now := a.credentials(&pod)["token"]; now != first {
			t.Error("an agent that was started anew changed a good token")
		}
		c.startMaster()
		c.eventually(55*time.Minute, "another token", func() bool { return a.credentials(&pod)["token"] != first })
	})
}

// What a person may ask for.
func TestTokenRequest(t *testing.T) {
	run(t, 1, func(c *cluster) {
		ask := func(account string, spec authenticationv1.TokenRequestSpec) (string, error) {
			r, err := c.kube.CoreV1().ServiceAccounts("default").CreateToken(c.ctx, account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
			if err != nil {
				return "", err
			}
			return r.Status.Token, nil
		}
		short, hour := int64(60), int64(3600)
		for name, test := range map[string]struct {
			account string
			spec    authenticationv1.TokenRequestSpec
			want    string
		}{
			"too short":       {"default", authenticationv1.TokenRequestSpec{ExpirationSeconds: &short}, "may not specify a duration less than 10 minutes"},
			"no such account": {"nobody", authenticationv1.TokenRequestSpec{}, `serviceaccounts "nobody" not found`},
			"no such pod":     {"default", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "x"}}, `pods "x" not found`},
			"another kind":    {"default", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Deployment", APIVersion: "apps/v1", Name: "x"}}, "cannot bind token"},
		} {
			if _, err := ask(test.account, test.spec); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		token, err := ask("default", authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour})
		if err != nil {
			t.Fatal(err)
		}
		whoami := func(token string) error {
			_, err := c.as(token).AuthenticationV1().SelfSubjectReviews().Create(c.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return err
		}
		if err := whoami(token); err != nil {
			t.Error(err)
		}
		if err := whoami(token[:len(token)-4] + "AAAA"); !apierrors.IsUnauthorized(err) {
			t.Errorf("a forged signature: %v", err)
		}
		time.Sleep(time.Hour + time.Minute)
		if err := whoami(token); !apierrors.IsUnauthorized(err) {
			t.Errorf("an expired token: %v", err)
		}
	})
}

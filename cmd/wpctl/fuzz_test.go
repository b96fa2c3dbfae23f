package main

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/clientcmd"
)

// FuzzKubeconfig: the command line and the environment choose a kubeconfig that was named, or one of those that are looked for.
func FuzzKubeconfig(f *testing.F) {
	f.Add("get\npods\n--kubeconfig=/x", "", "/root", true)
	f.Add("--kubeconfig", "", "", false)
	f.Add("exec\nweb\n--\n--kubeconfig=/x", "/a:/b", "/root", true)
	f.Add("--kubeconfig\n--\n--kubeconfig=", ":", "..", true)
	f.Fuzz(func(t *testing.T, line, env, home string, there bool) {
		args := strings.Split(line, "\n")
		k := findKubeconfig(args, env, home, func(string) bool { return there })
		switch k.why {
		case "--kubeconfig":
			if !slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(a, k.path) }) {
				t.Errorf("%q is not in %q", k.path, args)
			}
		case "$KUBECONFIG":
			if k.path != env {
				t.Errorf("%q", k.path)
			}
		default:
			if k.set != there || there && !slices.Contains(k.seen, k.path) || !there && k.path != "" {
				t.Errorf("%+v", k)
			}
		}
		if k.describe() == "" {
			t.Error("nothing to say")
		}
	})
}

// FuzzJoinLine: what `token create` prints from a kubeconfig that may hold anything.
func FuzzJoinLine(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://h:6443', certificate-authority-data: eA==}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n", "abcdef.0123456789abcdef")
	f.Add("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: '::'}}]\n", ".")
	f.Add("", "ABCDEF.")
	f.Fuzz(func(t *testing.T, text, token string) {
		if m := tokenForm.FindStringSubmatch(token); m != nil && m[1]+"."+m[2] != token {
			t.Errorf("token %q", token)
		}
		c, err := clientcmd.RESTConfigFromKubeConfig([]byte(text))
		if err != nil {
			return
		}
		c.CAFile = "" // no files of this machine
		line, err := joinCommand(t.Context(), fake.NewClientset(), c, "", token)
		if err == nil && !strings.HasPrefix(line, "wp-agent join --master ") {
			t.Errorf("%q", line)
		}
	})
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// systemKubeconfig is where a master on a real server leaves the administrator's.
const systemKubeconfig = "/etc/whalepod/admin.kubeconfig"

// kubeconfig is what findKubeconfig decided.
type kubeconfig struct {
	path string   // the one in use; empty if none was found
	why  string   // "--kubeconfig", "$KUBECONFIG", or empty: found by itself
	set  bool     // KUBECONFIG is to be set to path
	seen []string // where it looked by itself, in this order
}

// findKubeconfig chooses the kubeconfig: what the user says; else the first that
// exists of the demo's in this directory, the user's own, and the server's.
func findKubeconfig(args []string, env, home string, exists func(string) bool) kubeconfig {
	if path := kubeconfigFlag(args); path != "" {
		return kubeconfig{path: path, why: "--kubeconfig"}
	}
	if env != "" {
		return kubeconfig{path: env, why: "$KUBECONFIG"}
	}
	k := kubeconfig{seen: []string{filepath.Join(".demo", "kubeconfig")}}
	if home != "" {
		k.seen = append(k.seen, filepath.Join(home, ".kube", "config"))
	}
	k.seen = append(k.seen, systemKubeconfig)
	for _, path := range k.seen {
		if exists(path) {
			k.path, k.set = path, true
			break
		}
	}
	return k
}

// kubeconfigFlag returns the value of --kubeconfig. What follows "--" belongs to
// the command that "exec" runs.
func kubeconfigFlag(args []string) string {
	for i, a := range args {
		if a == "--" {
			break
		}
		if v, ok := strings.CutPrefix(a, "--kubeconfig="); ok {
			return v
		}
		if a == "--kubeconfig" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// describe says which kubeconfig is in use and why.
func (k kubeconfig) describe() string {
	switch {
	case k.why != "":
		return fmt.Sprintf("wpctl uses the kubeconfig %s (from %s).", k.path, k.why)
	case k.path != "":
		return fmt.Sprintf("wpctl uses the kubeconfig %s, the first that exists of: $KUBECONFIG, %s.", k.path, strings.Join(k.seen, ", "))
	default:
		return fmt.Sprintf("wpctl found no kubeconfig. It takes the first that exists of: --kubeconfig, $KUBECONFIG, %s.", strings.Join(k.seen, ", "))
	}
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

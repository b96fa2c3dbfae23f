package main

import (
	"fmt"
	"strings"
)

// withFile are the commands that take manifests with -f, and that people also
// type with the bare name of the file.
var withFile = map[string]bool{"create": true, "apply": true, "replace": true, "delete": true}

// missingFileFlag returns what to say to "create app.yml", "" where all is well.
func missingFileFlag(args []string) string {
	verb := -1
	for i, a := range args {
		switch {
		case a == "--":
			return ""
		case verb < 0 && !strings.HasPrefix(a, "-"):
			if !withFile[a] {
				// The value of a flag before the verb, as in "-n web create x.yml".
				if i == 0 || !strings.HasPrefix(args[i-1], "-") {
					return ""
				}
				continue
			}
			verb = i
		case verb >= 0 && (a == "-f" || a == "-k" || strings.HasPrefix(a, "-f") ||
			strings.HasPrefix(a, "--filename") || strings.HasPrefix(a, "--kustomize")):
			return ""
		case verb >= 0 && strings.HasPrefix(a, "-"):
			if strings.Contains(a, "=") {
				continue
			}
		case verb >= 0 && manifestName(a):
			if i > verb+1 && !strings.HasPrefix(args[i-1], "-") {
				return "" // "create configmap app.yml": not the first word after the verb
			}
			fixed := append(append(append([]string{"wpctl"}, args[:i]...), "-f"), args[i:]...)
			return fmt.Sprintf("error: %q is a file, and files are given with -f. Did you mean this?\n\n    %s\n", a, strings.Join(fixed, " "))
		case verb >= 0:
			return ""
		}
	}
	return ""
}

func manifestName(a string) bool {
	return strings.HasSuffix(a, ".yml") || strings.HasSuffix(a, ".yaml") || strings.HasSuffix(a, ".json")
}

// Beginnings of what the library says when there is no API server to talk to.
var unreachable = []string{
	"The connection to the server", "Unable to connect to the server",
	"error: You must be logged in to the server",
}

// withHint adds to an error of the library what to look at, where that is not plain.
func withHint(message string, k kubeconfig) string {
	text := strings.TrimSpace(message)
	switch {
	case strings.HasPrefix(text, unreachable[2]), strings.Contains(text, "certificate signed by unknown authority"):
		return text + "\n\nThe kubeconfig may belong to another cluster, or to this one before it was made anew.\n" + k.describe()
	case strings.HasPrefix(text, unreachable[0]), strings.HasPrefix(text, unreachable[1]):
		hint := text + "\n\n" + k.describe() + "\n"
		if k.path == "" {
			return hint + "No cluster yet? \"make demo\" starts one on this machine; on a server the master writes " + systemKubeconfig + "."
		}
		return hint + "Look whether wp-master runs on that server, and whether a firewall lets port 6443 through: sudo wpctl doctor --local, there.\n" +
			"Running containers do not need the master: they go on meanwhile."
	default:
		return message
	}
}

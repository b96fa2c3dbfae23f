package node

import (
	"cmp"
	"os"
	"path/filepath"
)

// registryConfigs are the files with the node's own passwords for registries, which all its pods may use: one in the
// agent's directory, as a kubelet has it, and what `docker login` writes for whoever runs the agent. A service may have
// no HOME; the agent runs as root.
func registryConfigs(dataDir string) []string {
	return []string{
		filepath.Join(dataDir, "config.json"),
		filepath.Join(cmp.Or(os.Getenv("HOME"), "/root"), ".docker", "config.json"),
	}
}

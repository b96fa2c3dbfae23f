package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// The oldest engine that an agent works with.
const oldestMajor, oldestMinor = 1, 13

// dockerInfo is what matters of GET /info.
type dockerInfo struct {
	ServerVersion      string
	Driver             string
	CgroupDriver       string
	CgroupVersion      string
	DockerRootDir      string
	LiveRestoreEnabled bool
	SecurityOptions    []string
	MemTotal           int64
}

func inspectDocker(ctx context.Context, s System, p *Place) (*dockerInfo, error) {
	data, err := s.Docker(ctx, p.DockerHost, "/info")
	if err != nil {
		return nil, err
	}
	info := &dockerInfo{}
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("its answer cannot be read: %w", err)
	}
	return info, nil
}

const liveRestore = `put {"live-restore": true} into /etc/docker/daemon.json, then: systemctl reload docker`

func docker(ctx context.Context, s System, p *Place) []Finding {
	if !p.Agent {
		return nil
	}
	info, err := inspectDocker(ctx, s, p)
	if err != nil {
		fix := "systemctl enable --now docker (install it first: https://docs.docker.com/engine/install/)"
		if strings.Contains(err.Error(), "permission denied") {
			fix = "run this as root: sudo wpctl doctor --local"
		}
		return []Finding{bad(fix, "the Docker Engine at %s does not answer: %v", p.DockerHost, err)}
	}
	var major, minor int
	if _, err := fmt.Sscanf(info.ServerVersion, "%d.%d", &major, &minor); err == nil && (major < oldestMajor || major == oldestMajor && minor < oldestMinor) {
		return []Finding{bad("install a newer Docker Engine: https://docs.docker.com/engine/install/", "Docker Engine %s is older than %d.%d", info.ServerVersion, oldestMajor, oldestMinor)}
	}
	out := []Finding{good("Docker Engine %s, storage %s, cgroups %s%s", info.ServerVersion, info.Driver, info.CgroupDriver, version(info.CgroupVersion))}
	switch info.Driver {
	case "vfs":
		out = append(out, warn(`put {"storage-driver": "overlay2"} into /etc/docker/daemon.json and restart Docker: all containers and images are gone then, and come anew (those of `+"`wpctl image load`"+` must be loaded again)`, "storage driver vfs copies a whole image for every container"))
	case "devicemapper", "aufs":
		out = append(out, warn(`put {"storage-driver": "overlay2"} into /etc/docker/daemon.json and restart Docker: all containers and images are gone then, and come anew (those of `+"`wpctl image load`"+` must be loaded again)`, "storage driver %s is slow, and newer engines do not have it", info.Driver))
	}
	if !info.LiveRestoreEnabled {
		out = append(out, warn(liveRestore, "all containers end when Docker is restarted or updated"))
	}
	return append(out, daemonJSON(s)...)
}

func version(v string) string {
	if v == "" {
		return ""
	}
	return " v" + v
}

// daemonJSON looks for settings that have surprised people.
func daemonJSON(s System) []Finding {
	data, err := s.ReadFile("/etc/docker/daemon.json")
	if err != nil {
		return nil // often not there
	}
	var cfg struct {
		IPTables      *bool  `json:"iptables"`
		UserlandProxy *bool  `json:"userland-proxy"`
		Bip           string `json:"bip"`
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return []Finding{bad("correct /etc/docker/daemon.json: Docker will not start with it again", "/etc/docker/daemon.json is not JSON: %v", err)}
	}
	if cfg.IPTables != nil && !*cfg.IPTables {
		return []Finding{good("Docker leaves iptables alone (\"iptables\": false): pods do not need its rules")}
	}
	return nil
}

func trouble(_ context.Context, _ System, p *Place) []Finding {
	switch {
	case p.Trouble != "":
		return []Finding{bad("the agent tries again by itself; the other findings may say what is in its way", "the node's network is not set up: %s", p.Trouble)}
	case p.Running:
		return []Finding{good("the node's network is set up")}
	}
	return nil
}

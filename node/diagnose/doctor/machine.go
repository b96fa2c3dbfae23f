package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Floor is how much must stay free: with less, pods are evicted. Bytes (or inodes), or if 0 a Fraction of all there is.
type Floor struct {
	Bytes    uint64
	Fraction float64
}

// usual are the kubelet's eviction thresholds.
var usual = map[string]Floor{"nodefs.available": {Fraction: 0.1}, "imagefs.available": {Fraction: 0.15}, "nodefs.inodesFree": {Fraction: 0.05}, "imagefs.inodesFree": {Fraction: 0.05}}

// nearly: below so many times the floor it is time to say something.
const nearly = 1.5

// floor of a signal of the kubelet's; zero, if there is none.
func (p *Place) floor(signal string) Floor {
	if p.Floors == nil {
		return usual[signal]
	}
	return p.Floors[signal]
}

func (f Floor) of(size uint64) float64 {
	if f.Bytes > 0 {
		return float64(f.Bytes)
	}
	return f.Fraction * float64(size)
}

func (f Floor) text(unit func(uint64) string) string {
	if f.Bytes > 0 {
		return unit(f.Bytes)
	}
	return fmt.Sprintf("%.0f %%", 100*f.Fraction)
}

func disks(ctx context.Context, s System, p *Place) []Finding {
	var out []Finding
	look := func(path, what, fs string) {
		d, err := s.Disk(path)
		if err != nil || d.Size == 0 {
			out = append(out, unknown("%s: cannot look at %s: %v", what, path, err))
			return
		}
		out = append(out, space(d, path, what, p.floor(fs+".available"), p.floor(fs+".inodesFree")))
	}
	if p.DataDir != "" {
		look(p.DataDir, "data", "nodefs")
	}
	if !p.Agent {
		return out
	}
	if info, err := inspectDocker(ctx, s, p); err == nil && info.DockerRootDir != "" {
		look(info.DockerRootDir, "images", "imagefs")
	}
	return out
}

func space(d Disk, path, what string, room, inodes Floor) Finding {
	free, least := float64(d.Free), room.of(d.Size)
	percent := 100 * free / float64(d.Size)
	const clean = "docker system df shows what takes room; docker image prune -a removes images that no container uses (those of `wpctl image load` must be loaded again then); or move %s to a larger disk"
	switch {
	case free < least:
		return bad(fmt.Sprintf(clean, path), "%s: %.0f %% of %s is free on %s, below the %s at which pods are evicted", what, percent, bytesOf(d.Size), path, room.text(bytesOf))
	case d.Inodes > 0 && float64(d.FreeInodes) < inodes.of(d.Inodes): // some file systems have no fixed number
		plain := func(n uint64) string { return strconv.FormatUint(n, 10) }
		return bad("find out who made so many small files: du --inodes -xd2 "+path+" | sort -n | tail", "%s: %.0f %% of the inodes are free on %s, below the %s at which pods are evicted",
			what, 100*float64(d.FreeInodes)/float64(d.Inodes), path, inodes.text(plain))
	case free < nearly*least:
		return warn(fmt.Sprintf(clean, path), "%s: %.0f %% of %s is free on %s; at %s pods are evicted", what, percent, bytesOf(d.Size), path, room.text(bytesOf))
	}
	return good("%s: %s of %s free on %s", what, bytesOf(d.Free), bytesOf(d.Size), path)
}

func bytesOf(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
}

// Memory in bytes: less than smallMemory is little for Docker, an agent and a pod; a machine without swap below
// wantsSwap loses pods to short peaks.
const (
	smallMemory = 450 << 20
	wantsSwap   = 1100 << 20
	// fewPercent of memory that is available is as good as none.
	fewPercent = 5
)

const makeSwap = "fallocate -l 1G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile && echo '/swapfile none swap sw 0 0' >>/etc/fstab"

func memory(_ context.Context, s System, _ *Place) []Finding {
	data, err := s.ReadFile("/proc/meminfo")
	if err != nil {
		return []Finding{unknown("memory: %v", err)}
	}
	m := map[string]uint64{}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		if f := strings.Fields(rest); len(f) > 0 {
			kb, _ := strconv.ParseUint(f[0], 10, 64)
			m[name] = kb << 10
		}
	}
	total, free, swap, freeSwap := m["MemTotal"], m["MemAvailable"], m["SwapTotal"], m["SwapFree"]
	switch {
	case total == 0:
		return []Finding{unknown("memory: /proc/meminfo does not say how much there is")}
	case 100*(free+freeSwap) < fewPercent*(total+swap):
		return []Finding{bad("wpctl top pods -A --sort-by=memory shows who takes it; give pods memory limits, or the machine more memory", "%s of %s memory are left, %s of %s swap", bytesOf(free), bytesOf(total), bytesOf(freeSwap), bytesOf(swap))}
	case total < smallMemory:
		return []Finding{warn("use a machine with 1 GB", "%s of memory is little for Docker, the agent and pods", bytesOf(total))}
	case total < wantsSwap && swap == 0:
		return []Finding{warn(makeSwap, "%s of memory and no swap: a short peak ends pods", bytesOf(total))}
	}
	return []Finding{good("%s of %s memory available, %s swap", bytesOf(free), bytesOf(total), bytesOf(swap))}
}

func selinux(ctx context.Context, s System, p *Place) []Finding {
	data, err := s.ReadFile("/sys/fs/selinux/enforce")
	if err != nil || strings.TrimSpace(string(data)) != "1" {
		return []Finding{good("SELinux does not enforce")}
	}
	info, err := inspectDocker(ctx, s, p)
	if err == nil && !strings.Contains(strings.Join(info.SecurityOptions, " "), "selinux") {
		return []Finding{good("SELinux enforces, but Docker does not use it for containers")}
	}
	return []Finding{warn("chcon -Rt container_file_t DIRECTORY for directories that pods mount with hostPath", "SELinux enforces: pods cannot read directories of the host that have no label for containers")}
}

func clock(_ context.Context, s System, _ *Place) []Finding {
	const fix = "timedatectl set-ntp true (or install chrony)"
	synced, err := s.ClockSynced()
	switch {
	case err != nil:
		return []Finding{unknown("whether the clock is set by somebody: %v", err)}
	case !synced:
		return []Finding{warn(fix, "nobody sets the clock: it drifts until certificates and tokens are refused")}
	}
	return []Finding{good("the clock is kept right")}
}

// Certificates are renewed long before their end; one that is nearer to it than this was not.
const certificateSoon = 7 * 24 * time.Hour

func certificates(_ context.Context, s System, p *Place) []Finding { return Certificates(s.Now(), p) }

// Certificates of the place, as they are now.
func Certificates(now time.Time, p *Place) []Finding {
	var out []Finding
	add := func(f Finding) {
		f.Check = "certificates"
		out = append(out, f)
	}
	for _, c := range p.Certificates {
		left := c.NotAfter.Sub(now)
		switch {
		case now.Before(c.NotBefore):
			add(bad("set the clock: timedatectl set-ntp true", "%s: valid from %s on, and the clock here says %s", c.Name, c.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime)))
		case left <= 0:
			add(bad(c.Fix, "%s: expired %s", c.Name, c.NotAfter.UTC().Format(time.DateTime)))
		case left < certificateSoon:
			add(warn(c.Fix, "%s: expires in %s", c.Name, days(left)))
		default:
			add(good("%s: valid for %s", c.Name, days(left)))
		}
	}
	return out
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%.0f hours", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// Conntrack: new connections are dropped when its table is full.
const (
	conntrackFull   = 95
	conntrackNearly = 80
)

func kernel(ctx context.Context, s System, p *Place) []Finding {
	var out []Finding
	number := func(path string) (int, bool) {
		data, err := s.ReadFile("/proc/sys/net/" + path)
		if err != nil {
			return 0, false
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		return n, err == nil
	}
	if !p.Agent {
		return nil
	}
	if n, ok := number("ipv4/ip_forward"); ok && n == 0 && p.Running {
		out = append(out, bad("sysctl -w net.ipv4.ip_forward=1, and look in /etc/sysctl.conf and /etc/sysctl.d for who switches it off", "this machine does not forward packets: pods reach nothing outside their node"))
	}
	count, ok := number("netfilter/nf_conntrack_count")
	most, ok2 := number("netfilter/nf_conntrack_max")
	if ok && ok2 && most > 0 {
		fix := fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d, and the same in /etc/sysctl.d/90-conntrack.conf", 2*most)
		switch used := 100 * count / most; {
		case used >= conntrackFull:
			out = append(out, bad(fix, "the connection table is full (%d of %d): new connections are dropped", count, most))
		case used >= conntrackNearly:
			out = append(out, warn(fix, "the connection table is nearly full (%d of %d)", count, most))
		}
	}
	if s.Root() {
		out = append(out, abilities(ctx, s)...)
	}
	if len(out) == 0 || Worst(out) == OK {
		out = append(out, good("forwarding, connection table (%d of %d)", count, most))
	}
	return out
}

// abilities are tried in a network namespace of their own, which is gone at once.
func abilities(ctx context.Context, s System) []Finding {
	var out []Finding
	if _, err := s.Run(ctx, "unshare", "-n", "true"); err != nil {
		return nil // no namespaces of our own here: nothing can be told
	}
	for _, a := range []struct {
		what, without string
		bad           bool
		argv          []string
	}{
		{"veth", "pods cannot be connected", true, []string{"ip", "link", "add", "wpd0", "type", "veth", "peer", "name", "wpd1"}},
		{"bridge", "pods cannot be connected", true, []string{"ip", "link", "add", "wpd0", "type", "bridge"}},
		{"vxlan", "nodes must be on one link", false, []string{"ip", "link", "add", "wpd0", "type", "vxlan", "id", "1", "dstport", "8472"}},
		{"iptables nat", "Services do not work", true, []string{"iptables", "-t", "nat", "-S", "PREROUTING"}},
	} {
		_, err := s.Run(ctx, "unshare", append([]string{"-n"}, a.argv...)...)
		switch {
		case err == nil, strings.Contains(err.Error(), "failed to execute"): // the program is missing: nothing can be told
		case a.bad:
			out = append(out, bad("use a kernel with it (a provider's container-like \"VPS\" may have none)", "the kernel has no %s: %s", a.what, a.without))
		default:
			out = append(out, warn("use a kernel with it, or give all nodes addresses on one link", "the kernel has no %s: %s", a.what, a.without))
		}
	}
	return out
}

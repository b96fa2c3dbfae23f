package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// readCodename returns the release of the machine's distribution: the images are
// made of the same one.
func readCodename(osRelease string) (string, error) {
	release, err := os.ReadFile(osRelease)
	if err != nil {
		return "", fmt.Errorf("which distribution is this? %w", err)
	}
	codename := releaseCodename(string(release))
	if codename == "" {
		return "", errors.New("images can be built on Debian and Ubuntu only (no VERSION_CODENAME in /etc/os-release); use --images=hub")
	}
	return codename, nil
}

// readSources asks apt for the sources that the machine is configured with, as
// lines of a sources.list: no mirror is ever named here. Only those of the
// distribution itself count: others (a vendor's repository) may hold another nginx.
func readSources(ctx context.Context, codename string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets", "--format",
		"$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	lines := sourceLines(string(out), codename)
	if lines == "" {
		return "", fmt.Errorf("apt has no package source for %s", codename)
	}
	return lines, nil
}

// releaseCodename reads VERSION_CODENAME of an os-release(5) file.
func releaseCodename(osRelease string) string {
	for line := range strings.Lines(osRelease) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// sourceLines turns "URI RELEASE COMPONENT" into sources.list lines, one for each
// release and URI, leaving out what does not belong to codename.
func sourceLines(targets, codename string) string {
	type source struct{ uri, release string }
	var order []source
	components := map[source][]string{}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		switch strings.TrimPrefix(f[1], codename) {
		case "", "-updates", "-security":
		default:
			continue
		}
		s := source{f[0], f[1]}
		known := components[s]
		if known == nil {
			order = append(order, s)
		}
		if !slices.Contains(known, f[2]) {
			components[s] = append(known, f[2])
		}
	}
	var b strings.Builder
	for _, s := range order {
		fmt.Fprintf(&b, "deb %s %s %s\n", s.uri, s.release, strings.Join(components[s], " "))
	}
	return b.String()
}

// aptConfig writes an /etc/apt for the builds: the machine's own (proxies, keys),
// with only the distribution's sources. It returns the directory.
func aptConfig(ctx context.Context, dir, sources string) (string, error) {
	apt := filepath.Join(dir, "apt")
	if err := os.RemoveAll(apt); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", "/etc/apt", apt).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy /etc/apt: %w: %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(apt, "sources.list.d")); err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(apt, "sources.list.d"), 0o755); err != nil {
		return "", err
	}
	// The keys are those of the machine's keyring packages, which the sources
	// may name by file; all of them are trusted for all of these sources.
	trusted := filepath.Join(apt, "trusted.gpg.d")
	if err := os.MkdirAll(trusted, 0o755); err != nil {
		return "", err
	}
	keyrings, err := filepath.Glob("/usr/share/keyrings/*-archive-keyring.gpg")
	if err != nil {
		return "", err
	}
	for _, k := range keyrings {
		data, err := os.ReadFile(k)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(trusted, filepath.Base(k)), data, 0o644); err != nil {
			return "", err
		}
	}
	return apt, os.WriteFile(filepath.Join(apt, "sources.list"), []byte(sources), 0o644)
}

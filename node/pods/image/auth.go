package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// dockerHub is what the Hub is called in Docker's configuration files.
const dockerHub = "index.docker.io"

// dockerAuth is one entry of a Docker configuration file.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// Credentials are what is known about registries, most specific first.
type Credentials []credential

type credential struct {
	host, path string // the path begins with a slash, or there is none
	auth       runtime.Auth
	// from is the Secret that holds it; nil for the node's own, which all its pods may use.
	from *Source
}

// Source is a Secret that was good for an image, and what was in it.
type Source struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Hash      string `json:"hash"`
}

// sameSecret tells whether both are one Secret, whatever is in it.
func (s Source) sameSecret(o Source) bool {
	return s.UID == o.UID && s.Namespace == o.Namespace && s.Name == o.Name
}

// FromSecrets reads pull secrets of both kinds; what cannot be read is left out.
func FromSecrets(secrets []*corev1.Secret) Credentials {
	var out Credentials
	for _, s := range secrets {
		var found Credentials
		if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok {
			found = parseConfigJSON(data)
		} else if data, ok := s.Data[corev1.DockerConfigKey]; ok {
			var auths map[string]dockerAuth
			if json.Unmarshal(data, &auths) == nil {
				found = fromAuths(auths)
			}
		}
		for i := range found {
			found[i].from = &Source{Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), Hash: hash(found[i].auth)}
		}
		out = append(out, found...)
	}
	out.sort()
	return out
}

// hash of what is sent to the registry.
func hash(a runtime.Auth) string {
	h := sha256.New()
	for _, part := range []string{a.Username, a.Password, a.IdentityToken} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// FromFile reads a Docker config.json of the node (`docker login` wrote it). No file: no credentials.
func FromFile(file string) Credentials {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parseConfigJSON(data)
}

func parseConfigJSON(data []byte) Credentials {
	var config struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if json.Unmarshal(data, &config) != nil {
		return nil
	}
	return fromAuths(config.Auths)
}

func fromAuths(auths map[string]dockerAuth) Credentials {
	var out Credentials
	for _, server := range slices.Sorted(maps.Keys(auths)) {
		a := auths[server]
		user, password := a.Username, a.Password
		if u, p, ok := decodeAuth(a.Auth); ok {
			user, password = u, p
		}
		if user == "" && a.IdentityToken == "" {
			continue
		}
		host, dir := splitServer(server)
		out = append(out, credential{host: host, path: dir, auth: runtime.Auth{
			Username: user, Password: password, IdentityToken: a.IdentityToken, ServerAddress: server,
		}})
	}
	out.sort()
	return out
}

// decodeAuth reads user:password in base64, which some programs write without padding.
func decodeAuth(field string) (user, password string, ok bool) {
	field = strings.TrimSpace(field)
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(field, "="))
	if err != nil || field == "" {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(decoded), ":")
	return user, strings.TrimRight(password, "\x00"), ok
}

// sort puts longer paths before those they begin with, as the kubelet's keyring does. Equal ones stay in the order of
// the pod's secrets.
func (c Credentials) sort() {
	slices.SortStableFunc(c, func(a, b credential) int { return cmp.Compare(b.host+b.path, a.host+a.path) })
}

// splitServer takes https://host:port/v1/some/path apart; a leading v1 or v2 is left by old clients and means nothing.
func splitServer(server string) (host, dir string) {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, dir, _ = strings.Cut(server, "/")
	for _, version := range []string{"v1", "v2"} {
		if rest, ok := strings.CutPrefix(dir, version+"/"); ok || dir == version {
			dir = rest
			if !ok {
				dir = ""
			}
			break
		}
	}
	if dir != "" {
		dir = "/" + dir
	}
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = dockerHub
	}
	return host, dir
}

// match returns the credentials that fit an image, to be tried in order. As with the kubelet the host may have
// wildcards, the port must be equal, and the path need only begin like the image's.
func (c Credentials) match(ref string) Credentials {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	host, repo := reference.Domain(named), "/"+reference.Path(named)
	if host == "docker.io" {
		host = dockerHub
	}
	var out Credentials
	for _, k := range c {
		if hostMatches(k.host, host) && strings.HasPrefix(repo, k.path) {
			out = append(out, k)
		}
	}
	return out
}

// hostMatches allows * within one label of the name, as in *.azurecr.io; the port must be equal.
func hostMatches(pattern, host string) bool {
	if pattern == host {
		return true
	}
	pname, pport := splitPort(pattern)
	hname, hport := splitPort(host)
	if pport != hport {
		return false
	}
	p, h := strings.Split(pname, "."), strings.Split(hname, ".")
	if len(p) != len(h) {
		return false
	}
	for i := range p {
		if ok, err := path.Match(p[i], h[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitPort(s string) (name, port string) {
	if name, port, err := net.SplitHostPort(s); err == nil {
		return name, port
	}
	return s, ""
}

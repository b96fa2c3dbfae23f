package image

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
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
	host, path string
	auth       runtime.Auth
}

// FromSecrets reads pull secrets of both kinds; what cannot be read is left out.
func FromSecrets(secrets []*corev1.Secret) Credentials {
	var out Credentials
	for _, s := range secrets {
		if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok {
			out = append(out, parseConfigJSON(data)...)
		} else if data, ok := s.Data[corev1.DockerConfigKey]; ok {
			var auths map[string]dockerAuth
			if json.Unmarshal(data, &auths) == nil {
				out = append(out, fromAuths(auths)...)
			}
		}
	}
	return out
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
	for server, a := range auths {
		user, password := a.Username, a.Password
		if decoded, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Auth != "" {
			if u, p, ok := strings.Cut(string(decoded), ":"); ok {
				user, password = u, strings.TrimRight(p, "\x00")
			}
		}
		if user == "" && a.IdentityToken == "" {
			continue
		}
		host, dir := splitServer(server)
		out = append(out, credential{host, dir, runtime.Auth{Username: user, Password: password, IdentityToken: a.IdentityToken, ServerAddress: server}})
	}
	slices.SortFunc(out, func(a, b credential) int {
		return cmp.Or(cmp.Compare(len(b.host+b.path), len(a.host+a.path)), cmp.Compare(a.host+a.path, b.host+b.path))
	})
	return out
}

// splitServer takes https://host:port/v1/some/path apart; /v1 and /v2 alone are left by old clients and mean nothing.
func splitServer(server string) (host, dir string) {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, dir, _ = strings.Cut(server, "/")
	dir = strings.Trim(dir, "/")
	if dir == "v1" || dir == "v2" {
		dir = ""
	}
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = dockerHub
	}
	return host, dir
}

// For returns the credentials that fit an image, to be tried in order.
func (c Credentials) For(ref string) []runtime.Auth {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	host, repo := reference.Domain(named), reference.Path(named)
	if host == "docker.io" {
		host = dockerHub
	}
	var out []runtime.Auth
	for _, k := range c {
		if hostMatches(k.host, host) && (k.path == "" || repo == k.path || strings.HasPrefix(repo, k.path+"/")) {
			out = append(out, k.auth)
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

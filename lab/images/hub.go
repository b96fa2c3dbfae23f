package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// HubImages are the images of the examples, by the names that people type. The
// ones that no first page needs may be missing.
var HubImages = []string{
	"library/mysql:latest", "library/wordpress:latest", "library/httpd:latest", "library/busybox:latest",
	"library/wordpress:fpm", "library/redis:6.0", "library/nginx:latest", "kurokobo/p4app:0.0.1",
}

// hubNeeded is how many of HubImages, from the start, the demo cannot do without.
const hubNeeded = 3

const hubURL = "https://registry-1.docker.io"

// HubReachable reports whether Docker Hub answers within a few seconds.
func HubReachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hubURL+"/v2/", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusOK
}

// Hub copies images from a registry, over the Registry HTTP API V2: the engines of
// the lab have no way to it themselves.
type Hub struct {
	URL    string // default Docker Hub
	Store  Store
	Arch   string // as Go names it
	Log    func(string)
	Client *http.Client

	token map[string]string // by repository
}

// Copy stores the named images. One that is stored already is not asked for
// again. Only the first few have to be there.
func (h *Hub) Copy(ctx context.Context, names []string) error {
	if h.URL == "" {
		h.URL = hubURL
	}
	if h.Client == nil {
		h.Client = &http.Client{}
	}
	if h.Log == nil {
		h.Log = func(string) {}
	}
	h.token = map[string]string{}
	for i, name := range names {
		if h.Store.Tagged(name) != "" {
			continue
		}
		err := h.image(ctx, name)
		switch {
		case err == nil:
			h.Log("pulled " + name)
		case i < hubNeeded || ctx.Err() != nil:
			return fmt.Errorf("pull %s: %w", name, err)
		default:
			h.Log(fmt.Sprintf("%s is left out: %v", name, err))
		}
	}
	return nil
}

// Types of manifest lists, and of manifests that we can store as they are.
var manifestTypes = []string{
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json",
	typeManifest, "application/vnd.oci.image.manifest.v1+json",
}

// maxManifest bounds what we read into memory; the specification says 4 MiB.
const maxManifest = 4 << 20

func (h *Hub) image(ctx context.Context, name string) error {
	repository, tag, _ := strings.Cut(name, ":")
	data, err := h.manifest(ctx, repository, tag)
	if err != nil {
		return err
	}
	var list struct {
		Manifests []struct {
			Digest   string
			Platform struct{ OS, Architecture, Variant string }
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if len(list.Manifests) > 0 {
		chosen := ""
		for _, m := range list.Manifests {
			if m.Platform.OS == "linux" && m.Platform.Architecture == h.Arch {
				chosen = m.Digest
				break
			}
		}
		if chosen == "" {
			return fmt.Errorf("there is none for linux/%s", h.Arch)
		}
		if data, err = h.manifest(ctx, repository, chosen); err != nil {
			return err
		}
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	if m.Config.Digest == "" {
		return errors.New("the manifest is of a kind we do not know")
	}
	for _, d := range append([]descriptor{m.Config}, m.Layers...) {
		if h.Store.Has(d.Digest) {
			continue
		}
		if err := h.blob(ctx, repository, d.Digest); err != nil {
			return err
		}
	}
	_, err = h.Store.PutManifest(data, []string{name})
	return err
}

func (h *Hub) manifest(ctx context.Context, repository, reference string) ([]byte, error) {
	res, err := h.get(ctx, repository, "manifests/"+reference, manifestTypes...)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, maxManifest))
}

func (h *Hub) blob(ctx context.Context, repository, digest string) error {
	res, err := h.get(ctx, repository, "blobs/"+digest)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return h.Store.PutFrom(res.Body, digest)
}

// get asks the registry, with a token when it wants one. Tokens live for minutes,
// layers may take longer: a refused one is fetched again once.
func (h *Hub) get(ctx context.Context, repository, path string, accept ...string) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/v2/"+repository+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		for _, a := range accept {
			req.Header.Add("Accept", a)
		}
		if t := h.token[repository]; t != "" {
			req.Header.Set("Authorization", "Bearer "+t)
		}
		res, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		switch {
		case res.StatusCode == http.StatusOK:
			return res, nil
		case res.StatusCode == http.StatusUnauthorized && attempt == 0:
			res.Body.Close()
			if h.token[repository], err = h.login(ctx, res.Header.Get("WWW-Authenticate")); err != nil {
				return nil, err
			}
		default:
			res.Body.Close()
			return nil, fmt.Errorf("%s: %s", path, res.Status)
		}
	}
}

var challengePart = regexp.MustCompile(`(\w+)="([^"]*)"`)

// login gets an anonymous token as the challenge says (distribution spec, "token").
func (h *Hub) login(ctx context.Context, challenge string) (string, error) {
	part := map[string]string{}
	for _, m := range challengePart.FindAllStringSubmatch(challenge, -1) {
		part[m[1]] = m[2]
	}
	realm, err := url.Parse(part["realm"])
	if err != nil || part["realm"] == "" {
		return "", fmt.Errorf("the registry wants a login that we do not know: %q", challenge)
	}
	q := realm.Query()
	for _, k := range []string{"service", "scope"} {
		if part[k] != "" {
			q.Set(k, part[k])
		}
	}
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	res, err := h.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxManifest)).Decode(&answer); err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" {
		return "", fmt.Errorf("login: %s", res.Status)
	}
	return answer.Token, nil
}

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // for build.sh
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed build.sh
var buildScript string

// format changes when layers are to be rebuilt although no recipe changed.
const format = "1"

// parallel is how many layers are made at a time: unpacking waits for the disk
// as often as for a processor.
const parallel = 3

// excluded paths are of no use within a container and a third of what Debian
// unpacks. Copyright files stay: they are what lets us hand the packages on.
var excluded = []string{
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/lintian/*", "path-exclude=/usr/share/bug/*", "path-exclude=/usr/share/mime/packages/*",
}

// Builder makes the images of the lab.
type Builder struct {
	Cache    string                    // directory for layers and work; may be shared by labs
	Store    Store                     // where images go
	Programs string                    // directory of our own programs (Recipe.Program)
	Log      func(message string)      // told of each image made; may be nil
	Recipes  []Recipe                  // default Recipes
	now      func() time.Time          // for tests
	run      func(cmd *exec.Cmd) error // for tests
}

// Build makes every image that is not in the store as its recipe says. It locks
// the cache, so that two builds at a time do not spoil each other's work.
func (b Builder) Build(ctx context.Context) error {
	if b.Recipes == nil {
		b.Recipes = Recipes
	}
	if b.Log == nil {
		b.Log = func(string) {}
	}
	if b.now == nil {
		b.now = time.Now
	}
	if b.run == nil {
		b.run = runQuietly
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(b.Cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", b.Cache, err)
	}
	codename, err := readCodename("/etc/os-release")
	if err != nil {
		return err
	}
	work := filepath.Join(b.Cache, "work")
	if err := os.RemoveAll(work); err != nil { // left by a crash
		return err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	return b.all(ctx, &build{
		Builder: b, codename: codename, work: work,
		// Asked for when a layer has to be made, as apt takes a second to say it.
		sources: sync.OnceValues(func() (string, error) { return readSources(ctx, codename) }),
	})
}

// all makes the recipes, each as soon as what it stands on is there.
func (b Builder) all(ctx context.Context, run *build) error {
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, parallel)
	done := map[string]*result{}
	for _, r := range b.Recipes {
		res := &result{made: make(chan struct{})}
		below := done[r.From]
		if r.From != "" && below == nil {
			return fmt.Errorf("recipe %s stands on %s, which is not before it", r.Name, r.From)
		}
		done[r.Name] = res
		g.Go(func() error {
			if below != nil {
				select {
				case <-below.made:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-slots }()
			if err := run.one(ctx, r, below, res); err != nil {
				return fmt.Errorf("image %s: %w", r.Name, err)
			}
			close(res.made)
			return nil
		})
	}
	return g.Wait()
}

// result is a made recipe: what stands on it needs its layers and directories.
type result struct {
	made   chan struct{}
	key    string
	layers []Layer
	dirs   []string // rootfs directories, topmost first
}

type build struct {
	Builder
	codename string
	sources  func() (string, error)
	work     string
}

func (b *build) one(ctx context.Context, r Recipe, below, res *result) error {
	key, err := b.key(r, below)
	if err != nil {
		return err
	}
	res.key = key
	dir := filepath.Join(b.Cache, "layers", r.Name+"-"+key)
	layer, err := b.known(dir)
	if err != nil {
		start := b.now()
		if layer, err = b.makeLayer(ctx, r, below, dir); err != nil {
			return err
		}
		b.Log(fmt.Sprintf("%s (%d MB, %.0f s)", r.Name, layer.Size>>20, b.now().Sub(start).Seconds()))
		b.forget(r.Name, key)
	}
	if below != nil && !r.Scratch {
		res.layers = append(res.layers, below.layers...)
		res.dirs = append(res.dirs, below.dirs...)
	}
	res.layers = append(res.layers, layer)
	res.dirs = append([]string{filepath.Join(dir, "fs")}, res.dirs...)
	if len(r.Tags) == 0 {
		return nil
	}
	_, err = b.Store.PutImage(r.Config, res.layers, r.Tags)
	return err
}

// key names what a layer is made from.
func (b *build) key(r Recipe, below *result) (string, error) {
	h := sha256.New()
	write := func(s ...string) { fmt.Fprintf(h, "%q\n", s) }
	write(format, b.codename, runtime.GOARCH, r.Name, r.Setup, fmt.Sprint(r.Scratch))
	write(r.Packages...)
	write(excluded...)
	if below != nil {
		write(below.key, buildScript)
	}
	if r.Program != "" {
		data, err := os.ReadFile(filepath.Join(b.Programs, r.Program))
		if err != nil {
			return "", fmt.Errorf("its program is missing (make build makes it): %w", err)
		}
		fmt.Fprintf(h, "%x\n", sha256.Sum256(data))
	}
	overlay, err := r.overlay()
	if err != nil || overlay == nil {
		return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
	}
	err = fs.WalkDir(overlay, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(overlay, path)
		write(path, string(data))
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}

// known reads the description of a layer that was made before.
func (b *build) known(dir string) (Layer, error) {
	var l Layer
	data, err := os.ReadFile(filepath.Join(dir, "layer.json"))
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, err
	}
	if !b.Store.Has(l.Digest) {
		return l, errors.New("its blob is gone")
	}
	return l, nil
}

// forget removes the directories of this recipe's former layers.
func (b *build) forget(name, key string) {
	old, err := filepath.Glob(filepath.Join(b.Cache, "layers", name+"-*"))
	if err != nil {
		return
	}
	for _, o := range old {
		// "wordpress-*" also finds "wordpress-fpm-…": a key has no dash.
		if k := strings.TrimPrefix(filepath.Base(o), name+"-"); k != key && !strings.Contains(k, "-") {
			_ = os.RemoveAll(o) // what stays is only found again next time
		}
	}
}

func (b *build) makeLayer(ctx context.Context, r Recipe, below *result, dir string) (Layer, error) {
	if err := os.RemoveAll(dir); err != nil {
		return Layer{}, err
	}
	upper := filepath.Join(dir, "fs")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		return Layer{}, err
	}
	root := upper
	var err error
	switch {
	case r.Program != "":
		err = copyFile(filepath.Join(b.Programs, r.Program), filepath.Join(upper, r.Program), 0o755)
	case below == nil:
		err = b.bootstrap(ctx, r, upper)
	default:
		err = b.install(ctx, r, below, upper)
		if r.Scratch {
			root = filepath.Join(upper, "out")
		}
	}
	if err != nil {
		return Layer{}, err
	}
	l, err := b.Store.PutLayer(root, below != nil && !r.Scratch)
	if err != nil {
		return Layer{}, err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return Layer{}, err
	}
	return l, writeFile(filepath.Join(dir, "layer.json"), string(data))
}

// bootstrap makes the first root, of the machine's own release.
func (b *build) bootstrap(ctx context.Context, r Recipe, root string) error {
	sources, err := b.sources()
	if err != nil {
		return err
	}
	apt, err := aptConfig(ctx, b.work, sources)
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--variant=apt", "--format=directory", "--quiet",
		"--include=" + strings.Join(r.Packages, ","), "--dpkgopt=force-unsafe-io",
		// Kept for the layers above: they install from the same lists.
		"--skip=cleanup/apt/lists",
	}
	for _, e := range excluded {
		args = append(args, "--dpkgopt="+e)
	}
	config, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return fmt.Errorf("apt-config dump: %w", err)
	}
	for _, p := range proxies(string(config)) {
		args = append(args, "--aptopt="+p)
	}
	args = append(args, b.codename, root, filepath.Join(apt, "sources.list"))
	if err := b.run(exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		return err
	}
	return nil
}

// proxies picks apt's proxy settings out of "apt-config dump".
func proxies(dump string) []string {
	var found []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Acquire::") && strings.Contains(line, "Proxy") && !strings.Contains(line, ` "";`) {
			found = append(found, line)
		}
	}
	return found
}

// install makes an upper layer, in namespaces of its own.
func (b *build) install(ctx context.Context, r Recipe, below *result, upper string) error {
	work := filepath.Join(b.work, r.Name)
	for _, d := range []string{"work", "root", "files", "lists", "apt"} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o755); err != nil {
			return err
		}
	}
	sources, err := b.sources()
	if err != nil {
		return err
	}
	apt, err := aptConfig(ctx, work, sources)
	if err != nil {
		return err
	}
	base := below.dirs[len(below.dirs)-1]
	env := append(os.Environ(),
		"LOWER="+strings.Join(below.dirs, ":"), "UPPER="+upper, "WORK="+filepath.Join(work, "work"),
		"ROOT="+filepath.Join(work, "root"), "APT="+apt, "LISTS="+filepath.Join(base, "var/lib/apt/lists"),
		"PACKAGES="+strings.Join(r.Packages, " "), "SETUP="+r.Setup, "FILES=")
	overlay, err := r.overlay()
	if err != nil {
		return err
	}
	if overlay != nil {
		dir := filepath.Join(work, "files")
		if err := extract(overlay, dir); err != nil {
			return err
		}
		env = append(env, "FILES="+dir)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", buildScript)
	cmd.Env = env
	return b.run(cmd)
}

// extract writes embedded files out. Embedding loses modes: what lies in a bin
// directory is executable.
func extract(from fs.FS, to string) error {
	return fs.WalkDir(from, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, path)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		data, err := fs.ReadFile(from, path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o755
		}
		return os.WriteFile(target, data, mode)
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// runQuietly runs a command and puts the end of its output into its error.
func runQuietly(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		tail := bytes.TrimSpace(out.Bytes())
		const most = 2048
		if len(tail) > most {
			tail = tail[len(tail)-most:]
		}
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, tail)
	}
	return nil
}

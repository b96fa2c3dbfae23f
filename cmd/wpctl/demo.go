package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/whalepod/whalepod/examples"
	"github.com/whalepod/whalepod/lab"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// What the demo shows, and where on this machine.
const (
	demoManifest = "app-wordpress3.yml"
	demoPage     = "127.0.0.1:30080"
	demoAPI      = "127.0.0.1:6443"
	pageTimeout  = 3 * time.Minute
)

// demo is one run of a demo command.
type demo struct {
	lab *lab.Lab
	dir string
	out io.Writer
	// midLine: the step that began last has had no line of its own yet
	midLine bool
	took    []string
}

func newDemoCommand(streams genericiooptions.IOStreams) *cobra.Command {
	c := &cobra.Command{
		Use:   "demo",
		Short: "A whole cluster on this one machine, to try things on",
		Run:   func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	var dir, images string
	var nodes, links int
	var lbPool []string
	open := func() (*demo, error) {
		bin, err := os.Executable()
		if err != nil {
			return nil, err
		}
		d := &demo{out: streams.Out}
		var masterArgs []string
		for _, pool := range lbPool {
			masterArgs = append(masterArgs, "--lb-pool", pool)
		}
		d.lab, err = lab.New(lab.Config{Nodes: nodes, Links: links, Dir: dir, Bin: filepath.Dir(bin), Images: images, MasterArgs: masterArgs, Log: d.progress})
		if err != nil {
			return nil, err
		}
		d.dir = d.lab.Config().Dir
		return d, nil
	}
	c.PersistentFlags().StringVar(&dir, "dir", ".demo", "Directory for the demo's state, logs and kubeconfig")
	up := demoVerb("up", "Bring up nodes with a Docker Engine each, and WordPress on them", open, (*demo).up)
	up.Flags().IntVar(&nodes, "nodes", numberFromEnv(os.Getenv("WP_NODES"), 3), "How many nodes; $WP_NODES sets the default")
	up.Flags().IntVar(&links, "links", numberFromEnv(os.Getenv("WP_LINKS"), 1), "On how many links they are, 1 or 2 with a router between them, as at two providers; $WP_LINKS sets the default")
	up.Flags().StringArrayVar(&lbPool, "lb-pool", nil, "Addresses for Services of type LoadBalancer, as wp-master takes them; free on the demo's link is 198.51.100.192/27. Without it they have the nodes' addresses")
	up.Flags().StringVar(&images, "images", "auto", "Where images come from: Docker Hub (hub), this machine's packages (lab), or Docker Hub where it can be reached (auto)")
	c.AddCommand(up,
		demoVerb("down", "End the demo and remove what it made, but its logs and cached images", open, (*demo).down),
		demoVerb("status", "Show what runs", open, (*demo).status),
		newDemoForward(), newDemoRegistry(), newDemoInstall(streams))
	return c
}

func demoVerb(name, short string, open func() (*demo, error), do func(*demo, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d, err := open()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return d.explain(name, do(d, ctx))
		},
	}
}

// numberFromEnv reads a flag's default; what is no number is left to the flag's own check.
func numberFromEnv(value string, otherwise int) int {
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return -1
	}
	return n
}

// explain adds to an error what can be done about it.
func (d *demo) explain(verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lab.ErrNotRoot):
		return fmt.Errorf("%w: sudo make demo", err)
	case verb == "up":
		if d.midLine {
			fmt.Fprintln(d.out)
		}
		logs := filepath.Join(d.dir, "log")
		if _, missing := os.Stat(logs); missing != nil {
			return err // nothing was started
		}
		return fmt.Errorf("%w\n\nThe logs are in %s; \"wpctl demo down\" clears what there is so far", err, logs)
	}
	return err
}

func (d *demo) up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return lab.ErrNotRoot
	}
	if d.lab.Running() {
		fmt.Fprintln(d.out, "The demo runs already (wpctl demo down ends it).")
		d.summary()
		return nil
	}
	start := time.Now()
	if missing := d.lab.Missing(); len(missing) > 0 {
		return fmt.Errorf("%s: missing in %s (make build makes them)", strings.Join(missing, ", "), d.lab.Config().Bin)
	}
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"Packages", installPackages},
		{"", func(ctx context.Context) (string, error) { return "", d.prepare(ctx) }},
		{"", func(ctx context.Context) (string, error) { return "", d.lab.Up(ctx, d.lab.Config().Nodes) }},
		{"Loopback forwarder", d.forward},
		{"Manifest " + demoManifest, d.apply},
		{"WordPress page", d.page},
	}
	for _, s := range steps {
		var err error
		if s.name == "" {
			_, err = s.do(ctx)
		} else {
			err = d.lab.Step(ctx, s.name, s.do)
		}
		if err != nil {
			return err
		}
	}
	fmt.Fprintf(d.out, "\nReady after %s: %s.\n", short(time.Since(start)), strings.Join(d.took, ", "))
	d.summary()
	return nil
}

func installPackages(ctx context.Context) (string, error) {
	installed, err := lab.Install(ctx, false)
	if len(installed) == 0 {
		return "all there", err
	}
	return "installed " + strings.Join(installed, " "), err
}

// prepare clears a former demo away, and sees that nobody else uses our addresses
// before minutes are spent.
func (d *demo) prepare(ctx context.Context) error {
	if err := d.lab.Prepare(ctx, 0); err != nil {
		return err
	}
	for _, addr := range []string{demoPage, demoAPI} {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("the demo needs %s, but something else uses it: %w", addr, err)
		}
		l.Close()
	}
	return nil
}

func (d *demo) forward(ctx context.Context) (string, error) {
	first := d.lab.Node(1).Address.String()
	err := d.lab.StartForwarder(ctx,
		lab.Forward{Listen: demoPage, To: net.JoinHostPort(first, "30080")},
		lab.Forward{Listen: demoAPI, To: net.JoinHostPort(first, "6443")})
	if err != nil {
		return "", err
	}
	return demoPage + " and " + demoAPI, d.lab.WriteKubeconfig(d.kubeconfig(), "https://"+demoAPI)
}

func (d *demo) kubeconfig() string { return filepath.Join(d.dir, "kubeconfig") }

func (d *demo) apply(ctx context.Context) (string, error) {
	manifest, err := examples.Files.ReadFile(demoManifest)
	if err != nil {
		return "", err
	}
	file := filepath.Join(d.dir, demoManifest)
	if err := os.WriteFile(file, manifest, 0o644); err != nil {
		return "", err
	}
	out, err := d.lab.Wpctl(ctx, "apply", "-f", file)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d objects", strings.Count(out, "\n")), nil
}

// page waits until WordPress answers with a page of its own, as a browser on this
// machine would get it.
func (d *demo) page(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	client := &http.Client{Timeout: 10 * time.Second}
	for {
		title, err := fetchTitle(ctx, client, "http://"+demoPage+"/")
		if err == nil {
			return title, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("http://%s/ gives no page: %w\n%s", demoPage, err, d.pods())
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// pods shows what became of the pods, for an error.
func (d *demo) pods() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := d.lab.Wpctl(ctx, "get", "pods", "-o", "wide")
	if err != nil {
		return err.Error()
	}
	return out
}

// fetchTitle gets a page and returns its title.
func fetchTitle(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s", url, res.Status)
	}
	_, rest, ok := strings.Cut(string(body), "<title>")
	title, _, closed := strings.Cut(rest, "</title>")
	if !ok || !closed {
		return "", fmt.Errorf("%s is not a page", url)
	}
	return fmt.Sprintf("%q", strings.TrimSpace(strings.NewReplacer("&lsaquo;", "‹", "&#8250;", "›", "&rsaquo;", "›").Replace(title))), nil
}

func (d *demo) summary() {
	cfg := d.lab.Config()
	config := d.kubeconfig()
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, config); err == nil && !strings.HasPrefix(rel, "..") {
			config = rel
		}
	}
	fmt.Fprintf(d.out, `
  Page        http://%s/
  KUBECONFIG  %s      (the API is at https://%s)
  Inside      every node's port 30080: nsenter --net=/run/netns/%slab curl -L http://%s:30080/

Try next:
  bin/wpctl get pods -o wide
  bin/wpctl scale deployment wordpress --replicas=4
  bin/wpctl create deployment p4app --image=kurokobo/p4app:0.0.1 --port 8080
  bin/wpctl exec -it deployment/wordpress -- bash
  bin/wpctl demo status
  make demo-down
`, demoPage, config, demoAPI, cfg.Prefix, d.lab.Node(1).Address)
}

func (d *demo) down(ctx context.Context) error {
	err := d.lab.Step(ctx, "Demo down", func(ctx context.Context) (string, error) {
		if err := d.lab.Down(ctx); err != nil {
			return "", err
		}
		return "images stay cached in " + d.lab.Config().Cache, os.RemoveAll(filepath.Join(d.dir, demoManifest))
	})
	return err
}

func (d *demo) status(context.Context) error {
	processes := d.lab.Processes()
	if len(processes) == 0 {
		fmt.Fprintf(d.out, "No demo runs from %s (make demo starts one).\n", d.dir)
		return nil
	}
	for _, p := range processes {
		state := "ended"
		if p.Alive {
			state = size(p.RSS)
		}
		fmt.Fprintf(d.out, "%-16s %8d  %s\n", p.Name, p.PID, state)
	}
	if d.lab.Running() {
		d.summary()
	} else {
		fmt.Fprintln(d.out, "\nThe demo is not whole: \"wpctl demo down\", then \"wpctl demo up\".")
	}
	return nil
}

// progress prints steps: their names as they begin, and what came of them on the
// same line, unless they had something to say meanwhile.
func (d *demo) progress(s lab.Step) {
	const column = 32
	switch {
	case s.Done && s.Err != nil: // the error itself comes at the end
		if d.midLine {
			fmt.Fprintf(d.out, "failed (%s)\n", short(s.Took))
		}
		d.midLine = false
	case s.Done:
		if !d.midLine {
			fmt.Fprintf(d.out, "%-*s", column, s.Name)
		}
		fmt.Fprintln(d.out, strings.TrimSpace(fmt.Sprintf("%s (%s)", s.Note, short(s.Took))))
		d.midLine = false
		d.took = append(d.took, s.Name+" "+short(s.Took))
	case s.Name == "":
		if d.midLine {
			fmt.Fprintln(d.out)
		}
		fmt.Fprintln(d.out, "  "+s.Note)
		d.midLine = false
	default:
		fmt.Fprintf(d.out, "%-*s", column, s.Name)
		d.midLine = true
	}
}

// short writes a time with one decimal at most.
func short(t time.Duration) string {
	if t < 10*time.Second {
		return t.Round(100 * time.Millisecond).String()
	}
	return t.Round(time.Second).String()
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

const (
	dockerSocket = "unix:///var/run/docker.sock"
	// loadAtOnce is how many nodes are sent an image at a time: all of it goes
	// through the master, whose uplink is the narrow place.
	loadAtOnce = 3
	// progressEvery is how often a line of progress is printed.
	progressEvery = 2 * time.Second
)

func newImageCommand(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Bring images to nodes without a registry",
		Run:   func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	var nodes []string
	load := &cobra.Command{
		Use:   "load FILE|NAME...",
		Short: "Send images to the nodes' Docker Engines, through the master",
		Long: "Send images to the nodes' Docker Engines, through the master.\n\n" +
			"A FILE is what \"docker save\" writes; a NAME is an image of the Docker Engine on this machine ($DOCKER_HOST).",
		Example: `  # An image that was built here, onto all nodes
  wpctl image load shop:v2

  # A file, onto one node
  wpctl image load shop.tar --node web1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config, err := f.ToRESTConfig()
			if err != nil {
				return err
			}
			targets := nodes
			if len(targets) == 0 {
				if targets, err = allNodes(c.Context(), f); err != nil {
					return err
				}
			}
			out := &lines{w: streams.Out}
			for _, a := range args {
				if err := loadImage(c.Context(), config, a, targets, out); err != nil {
					return err
				}
			}
			return nil
		},
	}
	load.Flags().StringSliceVar(&nodes, "node", nil, "Node to send to; can be given several times. All of them without it")
	c.AddCommand(load)
	return c
}

func allNodes(ctx context.Context, f cmdutil.Factory) ([]string, error) {
	client, err := f.KubernetesClientSet()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("the cluster has no nodes yet: \"wpctl token create --print-join-command\" tells how to add one")
	}
	return names, nil
}

// loadImage sends one image to all targets. A node that fails does not keep the
// others from getting it.
func loadImage(ctx context.Context, config *rest.Config, arg string, targets []string, out *lines) error {
	file := arg
	if !exists(arg) {
		if strings.HasSuffix(arg, ".tar") || strings.ContainsRune(arg, filepath.Separator) && strings.HasPrefix(arg, ".") {
			return fmt.Errorf("there is no file %s", arg)
		}
		out.printf("%s: reading it from the Docker Engine here", arg)
		saved, err := saveImage(ctx, arg)
		if err != nil {
			return err
		}
		defer os.Remove(saved)
		file = saved
	}
	if err := checkArchive(file); err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	errs := make([]error, len(targets))
	var g errgroup.Group
	g.SetLimit(loadAtOnce)
	for i, node := range targets {
		g.Go(func() error {
			if err := sendArchive(ctx, config, file, node, out); err != nil {
				errs[i] = fmt.Errorf("node %s: %w", node, err)
			}
			return nil
		})
	}
	_ = g.Wait() // it collects nothing: every node has its own place in errs
	return errors.Join(errs...)
}

// checkArchive refuses what cannot be an image before it is sent to every node.
func checkArchive(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("not an image archive: %w", err)
	}
	head = head[:n]
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} { // what the engine unpacks
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil
		}
	}
	if len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar")) {
		return nil
	}
	return errors.New("not an image archive as \"docker save\" writes it")
}

// sendArchive streams a file to one node and reports what its engine says.
func sendArchive(ctx context.Context, config *rest.Config, file, node string, out *lines) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	body := &progress{r: f, total: info.Size(), now: time.Now, say: func(text string) { out.printf("%s: %s", node, text) }}
	path := "/api/v1/nodes/" + url.PathEscape(node) + "/proxy/images/load"
	res, err := request(ctx, config, http.MethodPost, path, body, info.Size())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return readLoad(res.Body, func(text string) { out.printf("%s: %s", node, text) })
}

// readLoad reads the node's answer, JSON lines as Docker writes them, to its end.
func readLoad(r io.Reader, say func(string)) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if len(bytes.TrimSpace(scan.Bytes())) == 0 {
			continue
		}
		var line struct {
			Status   string `json:"status"`
			Stream   string `json:"stream"`
			Progress string `json:"progress"`
			Error    string `json:"error"`
		}
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			return fmt.Errorf("the node answered %q", scan.Text())
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
		// Lines with progress repeat many times a second; ours is enough.
		if text := strings.TrimSpace(line.Status + line.Stream); text != "" && line.Progress == "" {
			say(text)
		}
	}
	return scan.Err()
}

// saveImage writes an image of the local Docker Engine to a temporary file, as
// "docker save" does.
func saveImage(ctx context.Context, name string) (string, error) {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = dockerSocket
	}
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return "", fmt.Errorf("DOCKER_HOST is %s, but only a unix:// socket can be read: use \"docker save -o FILE %s\" and load the file", host, name)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/images/get?names="+url.QueryEscape(name), nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("there is no file %s, and no Docker Engine here to ask for an image of that name: %w", name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var e struct{ Message string }
		_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&e)
		return "", fmt.Errorf("there is no file %s, and Docker says: %s (%s)", name, e.Message, res.Status)
	}
	tmp, err := os.CreateTemp("", "wpctl-image-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(tmp, res.Body)
	if err = errors.Join(err, tmp.Close()); err != nil {
		os.Remove(tmp.Name())
		return "", fmt.Errorf("read image %s: %w", name, err)
	}
	return tmp.Name(), nil
}

// progress tells now and then how much of a file has been read.
type progress struct {
	r     io.Reader
	total int64
	now   func() time.Time
	say   func(string)

	read int64
	last time.Time
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.read += int64(n)
	now := p.now()
	if p.last.IsZero() {
		p.last = now
	}
	if now.Sub(p.last) >= progressEvery || p.read == p.total && n > 0 {
		p.last = now
		p.say(fmt.Sprintf("sent %s of %s", size(p.read), size(p.total)))
	}
	return n, err
}

// lines prints whole lines from several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}

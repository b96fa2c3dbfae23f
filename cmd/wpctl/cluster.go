package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func newClusterCommand(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Care for the cluster as a whole",
		Run:   func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "backup FILE",
		Short: "Write a consistent copy of everything that the master knows",
		Long: "Write a consistent copy of everything that the master knows to a file, while it works on.\n\n" +
			"The file holds all Secrets: keep it as safe as the master itself. \"wp-master --restore FILE\" starts from it.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config, err := f.ToRESTConfig()
			if err != nil {
				return err
			}
			n, err := backup(c.Context(), config, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "cluster backup written to %s (%s)\n", args[0], size(n))
			return nil
		},
	})
	return c
}

// backup copies /backup of the API server to a file, which is either whole or not
// there: it is written aside, brought to the disk, and renamed.
func backup(ctx context.Context, config *rest.Config, file string) (int64, error) {
	res, err := request(ctx, config, http.MethodGet, "/backup", nil, 0)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(file)+".")
	if err != nil {
		return 0, err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	n, err := io.Copy(tmp, res.Body)
	if err == nil && n == 0 {
		err = errors.New("the server sent nothing")
	}
	if err == nil && res.ContentLength >= 0 && n != res.ContentLength {
		err = fmt.Errorf("%d of %d bytes arrived", n, res.ContentLength)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return 0, err
	}
	// The new name must survive a crash too.
	d, err := os.Open(dir)
	if err != nil {
		return n, err
	}
	return n, errors.Join(d.Sync(), d.Close())
}

// request sends one request to the API server without a time limit of its own, for
// long streams. An answer that is not 2xx becomes the error that it tells of.
func request(ctx context.Context, config *rest.Config, method, path string, body io.Reader, length int64) (*http.Response, error) {
	config = rest.CopyConfig(config)
	config.Timeout = 0
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	target := strings.TrimSuffix(base.String(), "/") + path
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = length
		req.Header.Set("Content-Type", "application/x-tar")
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	status := new(metav1.Status)
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, status); err == nil && status.Message != "" {
		return nil, &apierrors.StatusError{ErrStatus: *status}
	}
	return nil, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, strings.TrimSpace(string(text)))
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f kB", float64(n)/(1<<10))
	}
}

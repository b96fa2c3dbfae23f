package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/whalepod/whalepod/lab"
	"github.com/whalepod/whalepod/lab/images"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// newDemoForward is the process that leads from this machine's loopback address
// into the lab. The demo starts it.
func newDemoForward() *cobra.Command {
	var netns string
	c := &cobra.Command{
		Use: "forward LISTEN=TO...", Short: "Forward loopback ports into the demo", Hidden: true,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			var forwards []lab.Forward
			for _, a := range args {
				f, err := lab.ParseForward(a)
				if err != nil {
					return err
				}
				forwards = append(forwards, f)
			}
			return lab.RunForwards(ctx, forwards, func(ctx context.Context, network, addr string) (net.Conn, error) {
				return lab.DialIn(ctx, netns, network, addr)
			})
		},
	}
	c.Flags().StringVar(&netns, "netns", "", "Network namespace to connect from")
	_ = c.MarkFlagRequired("netns") // it exists
	return c
}

// newDemoRegistry serves the cached images where docker-registry is not to be had.
func newDemoRegistry() *cobra.Command {
	var storage, listen, login string
	c := &cobra.Command{
		Use: "registry", Short: "Serve the demo's images", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			handler := images.Store{Dir: storage}.Handler()
			if user, password, ok := strings.Cut(login, ":"); ok {
				handler = images.Private(handler, user, password)
			}
			server := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
			stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
			defer stopped()
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
	}
	c.Flags().StringVar(&storage, "storage", "", "Directory of the images")
	c.Flags().StringVar(&listen, "listen", "", "Address to listen on")
	c.Flags().StringVar(&login, "login", "", "USER:PASSWORD to ask for")
	return c
}

// newDemoInstall installs what labs need; "make test" calls it.
func newDemoInstall(streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use: "install", Short: "Install the packages that the demo and the tests need", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			installed, err := lab.Install(c.Context(), true)
			if len(installed) > 0 {
				fmt.Fprintln(streams.Out, "installed "+strings.Join(installed, " "))
			}
			return err
		},
	}
}

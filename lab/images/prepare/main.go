// Command prepare builds the demo's images into the cache; "make demo" runs it while wpctl is still being compiled, which takes
// as long the first time.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/whalepod/whalepod/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: prepare DIRECTORY-OF-P4APP")
		os.Exit(2)
	}
	if os.Geteuid() != 0 {
		return // "wpctl demo up" says what to do
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string) error {
	if _, err := lab.Install(ctx, false); err != nil {
		return err
	}
	return lab.FillCache(ctx, lab.Config{Dir: ".demo", Bin: bin}, func(m string) { fmt.Println("images:", m) })
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	bin    string // where wp-master, wp-agent and wpctl are
	dir    string // for everything that is written; removed at the end
	images string // see lab.Config
	rows   []row
}

// section is a part of a run that can be asked for by itself.
type section struct {
	name, what string
	run        func(*bench, context.Context) error
}

var sections = []section{
	{"store", "store: durable writes", (*bench).store},
	{"scheduler", "scheduler: decisions", (*bench).scheduler},
	{"dns", "DNS: queries", (*bench).dns},
	{"proxy", "proxy: one Service changed", (*bench).proxy},
	{"network", "network: from pod to pod on two nodes", (*bench).network},
	{"start", "wp-master: start to ready", (*bench).start},
	{"api", "wp-master: the API under load", (*bench).api},
	{"hollow", "wp-master: 1,000 nodes, 30,000 pods (hollow)", (*bench).hollow},
	{"runtime", "node: pods beside the raw Docker API", (*bench).runtime},
	{"lab", "a lab of three nodes", (*bench).cluster},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{}
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	only := flag.String("only", "", "run only these sections: "+strings.Join(names, ","))
	flag.StringVar(&b.bin, "bin", "bin", "directory of the programs")
	flag.StringVar(&b.images, "images", "auto", "where the lab's images come from: auto, lab or hub")
	flag.Parse()
	wanted := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return fmt.Errorf("no section %q; there are %s", w, strings.Join(names, ", "))
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and Docker Engines are for root: sudo make bench")
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "wpb"); err != nil { // short enough for a socket
		return err
	}
	defer os.RemoveAll(b.dir)

	began := time.Now()
	about := machine(ctx, b.dir)
	var failed []error
	for _, s := range sections {
		if len(wanted) > 0 && !slices.Contains(wanted, s.name) {
			continue
		}
		if err := b.measure(ctx, s); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("\n%s\n\n", about)
	printTable(os.Stdout, b.rows)
	fmt.Printf("\nIn %s. \"Others\" is how much of the processors was in use just before, by anything else: with more than a few\npercent the figures are worth little.\n", time.Since(began).Round(time.Second))
	return errors.Join(failed...)
}

// measure runs one section and marks its rows with what else the machine did.
func (b *bench) measure(ctx context.Context, s section) error {
	others := busy(ctx, 2*time.Second)
	fmt.Printf("== %s (load %s, others %.0f %%)\n", s.what, loadAverage(), others)
	began, first := time.Now(), len(b.rows)
	err := s.run(b, ctx)
	for i := first; i < len(b.rows); i++ {
		b.rows[i].section, b.rows[i].others = s.what, others
	}
	if err != nil {
		fmt.Println("   failed:", err)
	}
	fmt.Printf("   %s\n", time.Since(began).Round(100*time.Millisecond))
	return err
}

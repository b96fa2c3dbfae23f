// Command wpctl is kubectl's own command library under our name. It finds the
// cluster's kubeconfig by itself, says what to do where a newcomer stumbles, and
// adds what Kubernetes has no word for: tokens to join with, images for nodes that
// have no registry, backups, and the demo. One file holds one of these.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubeconfigs may name any of them
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/whalepod/whalepod/cmd/internal/version"
)

func main() {
	// The library sets verbosity while it parses flags, which is too late for what
	// it logs when commands are made.
	if _, err := logs.GlogSetter(cmd.GetLogVerbosity(os.Args)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if hint := missingFileFlag(os.Args[1:]); hint != "" {
		fmt.Fprintln(os.Stderr, hint)
		os.Exit(1)
	}
	home, _ := os.UserHomeDir() // without one there is one place less to look
	found := findKubeconfig(os.Args[1:], os.Getenv("KUBECONFIG"), home, exists)
	if found.set {
		if err := os.Setenv("KUBECONFIG", found.path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// Every error of the library ends here.
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		message = withHint(message, found)
		if message != "" {
			fmt.Fprintln(os.Stderr, strings.TrimSuffix(message, "\n"))
		}
		os.Exit(code)
	})
	root := newCommand(os.Args, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	root.SetArgs(withDashes(root, os.Args[1:]))
	if err := cli.RunNoErrOutput(root); err != nil {
		cmdutil.CheckErr(err)
	}
}

// newCommand makes kubectl's commands and ours.
func newCommand(args []string, streams genericiooptions.IOStreams) *cobra.Command {
	// The same limits as kubectl's own: discovery is a burst of small requests.
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
		WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams)
	root := cmd.NewKubectlCommand(cmd.KubectlOptions{ConfigFlags: flags, IOStreams: streams, Arguments: args})
	f := cmdutil.NewFactory(flags)
	root.AddCommand(
		newTokenCommand(f, streams),
		newImageCommand(f, streams),
		newClusterCommand(f, streams),
		newTraceCommand(f, streams),
		newDoctorCommand(f, streams),
		newDemoCommand(streams),
	)
	showOurVersion(root, streams)
	explainRollouts(root, f, streams)
	rename(root)
	runPlugin(root, args, streams)
	return root
}

// showOurVersion lets "version" begin with ours.
func showOurVersion(root *cobra.Command, streams genericiooptions.IOStreams) {
	for _, c := range root.Commands() {
		if c.Name() != "version" {
			continue
		}
		run := c.Run
		c.Run = func(c *cobra.Command, args []string) {
			if c.Flags().Lookup("output").Value.String() == "" {
				fmt.Fprintf(streams.Out, "Whalepod Version: %s\n", version.Version)
			}
			run(c, args)
		}
	}
}

// runPlugin hands over to an executable wpctl-NAME or kubectl-NAME in the PATH
// where there is no such command. It only returns if there is none.
func runPlugin(root *cobra.Command, args []string, streams genericiooptions.IOStreams) {
	if len(args) < 2 {
		return
	}
	plugin.ValidPluginFilenamePrefixes = []string{"wpctl", "kubectl"}
	handler := cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes)
	pieces := args[1:]
	found, rest, err := root.Find(pieces)
	least := 1
	switch {
	case err != nil:
		for _, a := range pieces {
			if !strings.HasPrefix(a, "-") {
				if a == "help" || a == cobra.ShellCompRequestCmd || a == cobra.ShellCompNoDescRequestCmd {
					return
				}
				break
			}
		}
	case cmd.IsSubcommandPluginAllowed(found.Name()) && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		for _, sub := range found.Commands() {
			if sub.Name() == rest[0] {
				return
			}
		}
		least = len(pieces) - len(rest) + 1
	default:
		return
	}
	if err := cmd.HandlePluginCommand(handler, pieces, least); err != nil {
		fmt.Fprintf(streams.ErrOut, "Error: %v\n", err)
		os.Exit(1)
	}
}

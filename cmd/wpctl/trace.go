package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/trace"
)

func newTraceCommand(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	var from, port, output string
	c := &cobra.Command{
		Use:   "trace (SERVICE | svc/SERVICE | pod/POD) [--from node/NAME | --from pod/NAME]",
		Short: "Follow the way to a Service or a pod and say where it is broken",
		Long: "Follow the way to a Service or a pod: name, address, rules on each node, endpoint, container. Every step is really tried " +
			"by the nodes' agents; the one that is broken is named, with what to do about it.\n\n" +
			"Without --from it is tried from every node that is ready. The exit code is 1 when something is broken.",
		Example: `  # Why does nobody reach the Service web?
  wpctl trace svc/web

  # Why does this pod not reach the database?
  wpctl trace svc/mysql --from pod/wordpress-6f7b9-x2x4z

  # One port, seen from one node
  wpctl trace svc/web --port http --from node/web1

  # A pod by itself, without a Service
  wpctl trace pod/mysql-0 --port 3306`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := traceOptions(args, from, port)
			if err != nil {
				return err
			}
			if o.Namespace, _, err = f.ToRawKubeConfigLoader().Namespace(); err != nil {
				return err
			}
			if output != "" && output != "json" {
				return fmt.Errorf("--output %s is not known: json, or nothing", output)
			}
			config, err := f.ToRESTConfig()
			if err != nil {
				return err
			}
			client, err := f.KubernetesClientSet()
			if err != nil {
				return err
			}
			report, err := trace.Run(c.Context(), client, askNode(config), o)
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(streams.Out, report)
			} else {
				report.Print(streams.Out)
			}
			if err == nil && report.Broken != "" {
				err = cmdutil.ErrExit
			}
			return err
		},
		ValidArgsFunction: completeTrace(f),
	}
	c.Flags().StringVar(&from, "from", "", "Try it from this node (node/NAME) or from inside this pod (pod/NAME, pod/NAMESPACE/NAME)")
	c.Flags().StringVar(&port, "port", "", "Only this port of the Service or pod, by number or name")
	c.Flags().StringVarP(&output, "output", "o", "", "Output format: json")
	return c
}

// completeTrace offers names of Services, and of pods after pod/.
func completeTrace(f cmdutil.Factory) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		kind, name, slash := strings.Cut(typed, "/")
		var out []string
		if !slash {
			kind, name = "service", typed
			if len(args) == 1 {
				kind = args[0]
			}
			return completion.CompGetResource(f, kind, name), cobra.ShellCompDirectiveNoFileComp
		}
		for _, n := range completion.CompGetResource(f, kind, name) {
			out = append(out, kind+"/"+n)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// kinds that can be traced, by what people call them.
var traceable = map[string]string{
	"svc": "service", "service": "service", "services": "service",
	"po": "pod", "pod": "pod", "pods": "pod",
}

// traceOptions reads "web", "svc/web", "svc web", and --from.
func traceOptions(args []string, from, port string) (o trace.Options, err error) {
	kind, name, slash := strings.Cut(args[0], "/")
	switch {
	case len(args) == 2 && !slash:
		name = args[1]
	case len(args) == 2:
		return o, errors.New("one Service or pod at a time")
	case !slash:
		kind, name = "svc", args[0]
	}
	o.Kind, o.Name, o.Port = traceable[strings.ToLower(kind)], name, port
	if o.Kind == "" {
		return o, fmt.Errorf("%s: only Services (svc/NAME) and pods (pod/NAME) can be traced", kind)
	}
	if o.Name == "" || strings.Contains(o.Name, "/") {
		return o, errors.New("give a name: svc/NAME or pod/NAME")
	}
	if from == "" {
		return o, nil
	}
	kind, name, slash = strings.Cut(from, "/")
	switch strings.ToLower(kind) {
	case "no", "node", "nodes":
		o.FromNode = name
	case "po", "pod", "pods":
		o.FromPod = name
		if ns, pod, both := strings.Cut(name, "/"); both {
			o.FromPodNamespace, o.FromPod = ns, pod
		}
	}
	if !slash || o.FromNode == "" && o.FromPod == "" {
		return o, fmt.Errorf("--from %s: give node/NAME or pod/NAME", from)
	}
	return o, nil
}

// askNode asks a node's agent through the master.
func askNode(config *rest.Config) trace.Asker {
	return func(ctx context.Context, node string, q *diagnose.Question) (*diagnose.Answer, error) {
		out := &diagnose.Answer{}
		return out, postNode(ctx, config, node, diagnose.TracePath, q, out)
	}
}

func postNode(ctx context.Context, config *rest.Config, node, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	res, err := request(ctx, config, http.MethodPost, "/api/v1/nodes/"+url.PathEscape(node)+"/proxy"+path, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(answer)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

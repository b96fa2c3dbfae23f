package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// Bootstrap tokens are Secrets of a form that Kubernetes defines, so that its own
// tools can read them: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
const (
	tokenPrefix = "bootstrap-token-"
	tokenGroup  = "system:bootstrappers:whalepod:nodes"
	// agentPort is where masters listen for agents.
	agentPort = "6444"
)

var tokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

func newTokenCommand(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make, list and delete the tokens that servers join with",
		Run:   func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	c.AddCommand(newTokenCreate(f, streams), newTokenList(f, streams), newTokenDelete(f, streams))
	return c
}

func newTokenCreate(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	var ttl time.Duration
	var join bool
	var description, master string
	c := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a token, and print it",
		Example: `  # What to type on a server to let it join
  wpctl token create --print-join-command`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			token, err := newToken()
			if len(args) == 1 {
				token, err = args[0], nil
			}
			if err != nil {
				return err
			}
			client, err := f.KubernetesClientSet()
			if err != nil {
				return err
			}
			secret, err := tokenSecret(token, ttl, description, time.Now())
			if err != nil {
				return err
			}
			if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(c.Context(), secret, metav1.CreateOptions{}); err != nil {
				return err
			}
			if !join {
				fmt.Fprintln(streams.Out, token)
				return nil
			}
			config, err := f.ToRESTConfig()
			if err != nil {
				return err
			}
			line, err := joinCommand(c.Context(), client, config, master, token)
			if err != nil {
				return err
			}
			fmt.Fprintln(streams.Out, line)
			return nil
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "How long the token can be used; 0 for ever")
	c.Flags().BoolVar(&join, "print-join-command", false, "Print the whole command for the server that is to join")
	c.Flags().StringVar(&description, "description", "", "What the token is for")
	c.Flags().StringVar(&master, "master", "", "Address of the master for the join command; found by itself")
	return c
}

func newTokenList(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := f.KubernetesClientSet()
			if err != nil {
				return err
			}
			list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(c.Context(), metav1.ListOptions{
				FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken),
			})
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(streams.Out, 6, 4, 3, ' ', 0)
			fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tDESCRIPTION")
			for i := range list.Items {
				if s := &list.Items[i]; s.Type == corev1.SecretTypeBootstrapToken {
					fmt.Fprintln(w, tokenRow(s, time.Now()))
				}
			}
			return w.Flush()
		},
	}
}

func newTokenDelete(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use:   "delete TOKEN|ID...",
		Short: "Delete tokens; servers that joined with them stay",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := f.KubernetesClientSet()
			if err != nil {
				return err
			}
			var errs []error
			for _, a := range args {
				id, _, _ := strings.Cut(a, ".")
				err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(c.Context(), tokenPrefix+id, metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					err = fmt.Errorf("there is no token %q; \"wpctl token list\" shows those there are", id)
				}
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(streams.Out, "token %q deleted\n", id)
			}
			return errors.Join(errs...)
		},
	}
}

// newToken makes a random token.
func newToken() (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	var b strings.Builder
	for b.Len() < 6+1+16 {
		if b.Len() == 6 {
			b.WriteByte('.')
			continue
		}
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return "", err
		}
		b.WriteByte(letters[n.Int64()])
	}
	return b.String(), nil
}

// tokenSecret is the Secret that stands for a token.
func tokenSecret(token string, ttl time.Duration, description string, now time.Time) (*corev1.Secret, error) {
	part := tokenForm.FindStringSubmatch(token)
	if part == nil {
		return nil, fmt.Errorf("%q is no token: six letters or digits, a point, sixteen more (all lower case)", token)
	}
	if ttl < 0 {
		return nil, fmt.Errorf("--ttl %s: cannot be negative", ttl)
	}
	data := map[string][]byte{
		"token-id":                       []byte(part[1]),
		"token-secret":                   []byte(part[2]),
		"usage-bootstrap-authentication": []byte("true"),
		"usage-bootstrap-signing":        []byte("true"),
		"auth-extra-groups":              []byte(tokenGroup),
	}
	if description != "" {
		data["description"] = []byte(description)
	}
	if ttl > 0 {
		data["expiration"] = []byte(now.Add(ttl).UTC().Format(time.RFC3339))
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: tokenPrefix + part[1], Namespace: metav1.NamespaceSystem},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       data,
	}, nil
}

// tokenRow is a token's line in a list.
func tokenRow(s *corev1.Secret, now time.Time) string {
	token := string(s.Data["token-id"]) + "." + string(s.Data["token-secret"])
	ttl, expires := "<forever>", "<never>"
	if e := string(s.Data["expiration"]); e != "" {
		ttl, expires = "<invalid>", e
		if at, err := time.Parse(time.RFC3339, e); err == nil {
			ttl = "<expired>"
			if at.After(now) {
				ttl = duration.ShortHumanDuration(at.Sub(now))
			}
		}
	}
	description := string(s.Data["description"])
	if description == "" {
		description = "<none>"
	}
	return strings.Join([]string{token, ttl, expires, description}, "\t")
}

// joinCommand is what to type on a server that is to join.
func joinCommand(ctx context.Context, client kubernetes.Interface, config *rest.Config, master, token string) (string, error) {
	ca, err := caData(config)
	if err != nil {
		return "", err
	}
	hash, err := caHash(ca)
	if err != nil {
		return "", err
	}
	if master == "" {
		if master, err = masterHost(ctx, client, config.Host); err != nil {
			return "", err
		}
	}
	if _, _, err := net.SplitHostPort(master); err != nil {
		master = net.JoinHostPort(strings.Trim(master, "[]"), agentPort)
	}
	return fmt.Sprintf("wp-agent join --master %s --token %s --ca-hash %s", master, token, hash), nil
}

// masterHost finds the master's address as other servers see it. The kubeconfig
// may name one that only leads there from this machine, so the cluster's own word
// goes first: the endpoints of its Service "kubernetes".
func masterHost(ctx context.Context, client kubernetes.Interface, server string) (string, error) {
	slices, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: "kubernetes.io/service-name=kubernetes",
	})
	if err == nil {
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if len(e.Addresses) > 0 {
					return e.Addresses[0], nil
				}
			}
		}
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("cannot tell the master's address from %q: give it with --master", server)
	}
	return u.Hostname(), nil
}

func caData(config *rest.Config) ([]byte, error) {
	if len(config.CAData) > 0 {
		return config.CAData, nil
	}
	if config.CAFile == "" {
		return nil, errors.New("the kubeconfig holds no certificate authority, so the join command cannot name it")
	}
	return os.ReadFile(config.CAFile)
}

// caHash is the SHA-256 of the certificate's public key (SubjectPublicKeyInfo), as
// kubeadm writes it: the same after the certificate was renewed.
func caHash(pemData []byte) (string, error) {
	block, _ := pem.Decode(pemData)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("the certificate authority is no PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("certificate authority: %w", err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo)), nil
}

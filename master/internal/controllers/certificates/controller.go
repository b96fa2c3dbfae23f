package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "csrsigning-controller"
	resource  = "certificatesigningrequests.certificates.k8s.io"
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	// Sign makes a certificate of the cluster's CA for a public key, in PEM. The CA's own end is the latest that it may have.
	Sign func(template *x509.Certificate, public any) (pem []byte, err error)
}

// Controller signs and cleans.
type Controller struct {
	cfg  Config
	loop *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resource},
		Keys: func(_ *registry.View, e registry.Event, add func(controller.Key)) {
			if !e.Deleted {
				add(e.Key)
			}
		},
		All: func(v *registry.View, add func(controller.Key)) {
			for csr := range registry.List[*certificatesv1.CertificateSigningRequest](v, "") {
				add(controller.Key{Resource: resource, Name: csr.Name})
			}
		},
		Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// reconcile signs a request that waits for it, deletes one whose time is over, and comes back when that will be.
func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var csr *certificatesv1.CertificateSigningRequest
	err := c.cfg.Registry.View(func(v *registry.View) (err error) {
		csr, err = registry.Get[*certificatesv1.CertificateSigningRequest](v, "", key.Name)
		return err
	})
	now := time.Now()
	end := time.Time{}
	if err == nil {
		end = endOf(csr)
	}
	switch {
	case err != nil:
	case !end.IsZero() && now.After(end):
		err = c.delete(ctx, csr)
	case waits(csr):
		err = c.sign(ctx, now, csr) // the write brings it here again
	case !end.IsZero():
		return end.Sub(now) + time.Second, nil
	}
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

func (c *Controller) delete(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	return c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		// It may have been decided about meanwhile; then its time is another.
		cur, err := registry.Get[*certificatesv1.CertificateSigningRequest](tx, "", csr.Name)
		if err != nil || cur.ResourceVersion != csr.ResourceVersion {
			return err
		}
		return tx.Delete(cur, registry.DeleteOptions{})
	})
}

// sign fulfils a request, or says on it why it never will be.
func (c *Controller) sign(ctx context.Context, now time.Time, csr *certificatesv1.CertificateSigningRequest) error {
	next := csr.DeepCopy()
	tmpl, public, err := template(now, csr)
	switch final := (errUsage{}); {
	case errors.As(err, &final):
		next.Status.Conditions = append(next.Status.Conditions, failed(now, final.error))
	case err != nil:
		return err
	default:
		if next.Status.Certificate, err = c.cfg.Sign(tmpl, public); err != nil {
			return err
		}
	}
	return c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		_, err := registry.PutStatus(tx, next.DeepCopy())
		return err
	})
}

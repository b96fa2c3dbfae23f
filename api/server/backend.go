package server

import (
	"context"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/resource"
)

// Backend keeps the objects; the registry implements it. Objects that come out are shared and must not be changed.
// All objects are in the storage version of their resource, which for custom kinds is that of the Resource; those whose versions
// differ by name alone may come out as they are kept, in another one. Errors are apierrors (Status) where the caller is to blame;
// the server writes anything else as an internal error.
type Backend interface {
	// Get returns an object. resourceVersion as in GetOptions: "" or "0" any, else not older than.
	Get(ctx context.Context, r *resource.Resource, namespace, name, resourceVersion string) (resource.Object, error)
	// List returns a page of objects in key order, all of one revision.
	List(ctx context.Context, r *resource.Resource, q ListQuery) (*ListResult, error)
	// Watch begins a watch; see Watch.
	Watch(ctx context.Context, r *resource.Resource, q WatchQuery) (Watch, error)
	// Create adds an object: names generated, defaults, validation and rules applied.
	Create(ctx context.Context, r *resource.Resource, namespace string, obj resource.Object, o WriteOptions) (resource.Object, error)
	// Update changes an object or one of its subresources ("" or "status") by a function from the current state to the
	// wanted one; the function may be called several times and gets a copy of its own. current is nil when there
	// is none and CreateOnUpdate is asked for.
	Update(ctx context.Context, r *resource.Resource, subresource, namespace, name string, o UpdateOptions,
		change func(current resource.Object) (resource.Object, error)) (obj resource.Object, created bool, err error)
	// Delete begins or completes the deletion: done says that the object is gone.
	Delete(ctx context.Context, r *resource.Resource, namespace, name string, o DeleteOptions) (obj resource.Object, done bool, err error)
	// DeleteCollection deletes what the query matches and returns what it matched.
	DeleteCollection(ctx context.Context, r *resource.Resource, q ListQuery, o DeleteOptions) ([]resource.Object, error)
	// Act performs the subresources that are verbs: pods/binding, pods/eviction, serviceaccounts/token,
	// deployments/rollback. body is of the kind that the subresource names; the result is what the client gets.
	Act(ctx context.Context, r *resource.Resource, subresource, namespace, name string, body runtime.Object, o WriteOptions) (runtime.Object, error)
	// Ready says why the backend cannot serve, or nil.
	Ready() error
}

// Connector serves the subresources that are connections: pods/log, pods/exec, pods/attach, pods/portforward,
// nodes/proxy, pods/proxy, services/proxy. path is what follows the subresource. Errors become Status objects unless
// the response has begun.
type Connector interface {
	Connect(w http.ResponseWriter, req *http.Request, r *resource.Resource, subresource, namespace, name, path string) error
}

// ListQuery says what to list.
type ListQuery struct {
	// Namespace, or "" for all.
	Namespace string
	Labels    labels.Selector
	Fields    fields.Selector
	// Limit is the size of a page; 0 means everything. Continue is the token of the page before.
	Limit    int64
	Continue string
	// ResourceVersion and ResourceVersionMatch as in ListOptions.
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
}

// ListResult is a page.
type ListResult struct {
	Items              []resource.Object
	ResourceVersion    string
	Continue           string
	RemainingItemCount *int64
}

// WatchQuery says what to watch.
type WatchQuery struct {
	Namespace            string
	Labels               labels.Selector
	Fields               fields.Selector
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	// SendInitialEvents as in ListOptions.
	SendInitialEvents *bool
}

// WatchEvent is ADDED, MODIFIED or DELETED as the watch's selectors see it.
type WatchEvent struct {
	Type   string
	Object resource.Object
}

// Watch hands out events. It is a cursor for one caller at a time, without a goroutine of its own.
type Watch interface {
	// Initial are the objects to send as ADDED first; InitialEnd says that a bookmark with the annotation
	// k8s.io/initial-events-end must follow them.
	Initial() (items []resource.Object, initialEnd bool)
	// Next waits for events; an Expired (410) error when the history has overtaken the watch; the context's error when
	// it ends first.
	Next(ctx context.Context) ([]WatchEvent, error)
	// ResourceVersion up to which everything has been handed out: what a bookmark says.
	ResourceVersion() string
	Close()
}

// WriteOptions of a creation.
type WriteOptions struct {
	DryRun bool
	// Warn receives messages for the Warning header; may be nil.
	Warn func(string)
	// User who asks.
	User User
	// Check is asked about what is about to be written, after the backend's own rules and outside of any transaction; old is
	// nil for a creation. Its error is the answer. May be nil.
	Check func(ctx context.Context, obj, old resource.Object) error
}

// UpdateOptions of an update or patch.
type UpdateOptions struct {
	WriteOptions
	// CallsOut: the change or Check may take long, so they are never called while others wait for them.
	CallsOut bool
	// CreateOnUpdate: the object is made when it does not exist (server-side apply, PUT of some kinds).
	CreateOnUpdate bool
	// As says that the object is written through a subresource that shows it otherwise; nil for what Update is told.
	As *Facet
}

// Facet is a subresource that shows an object as another kind: scale.
type Facet struct {
	Subresource string
	// Show makes the other kind of an object.
	Show func(resource.Object) (runtime.Object, error)
	// Take brings into an object, which it may change, what was changed in what was shown.
	Take func(resource.Object, runtime.Object) (resource.Object, error)
}

// DeleteOptions of a deletion; see metav1.DeleteOptions.
type DeleteOptions struct {
	WriteOptions
	GracePeriodSeconds *int64
	UID                *types.UID
	ResourceVersion    *string
	Propagation        *metav1.DeletionPropagation
	// OrphanByDefault lets dependents be when neither Propagation nor a finalizer of the object says what is to become of
	// them.
	OrphanByDefault bool
}

// User is who asks, as the client certificate or token says.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
	// Audiences that the user's token is for, of those asked for; see Audiences.
	Audiences []string
}

type userKey struct{}

func withUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserOf is who asked for a connection, from the context of the request that a Connector gets.
func UserOf(ctx context.Context) User {
	u, _ := ctx.Value(userKey{}).(User)
	return u
}

// Authenticator finds out who asks; an error means 401.
type Authenticator interface {
	Authenticate(req *http.Request) (User, error)
}

// BookmarkInterval is how often a watch that allows bookmarks gets one.
const BookmarkInterval = time.Minute

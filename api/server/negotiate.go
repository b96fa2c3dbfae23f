package server

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// format is a wire format.
type format int

const (
	formatJSON format = iota
	formatYAML
	formatProtobuf
)

// mediaTypes of the formats, in the order that an error names them and `*/*` prefers them.
var mediaTypes = [...]string{formatJSON: runtime.ContentTypeJSON, formatYAML: runtime.ContentTypeYAML, formatProtobuf: runtime.ContentTypeProtobuf}

func (f format) mediaType() string { return mediaTypes[f] }

// accept is what the client wants back.
type accept struct {
	format format
	pretty bool
	// as is the kind that the client wants the answer transformed to: Table, PartialObjectMetadata(List); nil for the
	// kind itself.
	as *schema.GroupVersionKind
	// params are the parameters of the chosen clause, which discovery reads.
	params map[string]string
}

// isTable says whether the answer is to be a Table.
func (a accept) isTable() bool { return a.as != nil && a.as.Kind == "Table" }

// isPartial says whether the answer is to be metadata only.
func (a accept) isPartial() bool {
	return a.as != nil && (a.as.Kind == "PartialObjectMetadata" || a.as.Kind == "PartialObjectMetadataList")
}

// onlyPlain allows no transformation: for Status objects, discovery documents and the like.
func onlyPlain(_ format, as *schema.GroupVersionKind, _ map[string]string) bool { return as == nil }

// objectForms allows what objects of a stored kind can be turned into.
func objectForms(f format, as *schema.GroupVersionKind, _ map[string]string) bool {
	if as == nil {
		return true
	}
	if gv := as.GroupVersion(); gv != metav1.SchemeGroupVersion && gv != metav1beta1.SchemeGroupVersion {
		return false
	}
	switch as.Kind {
	case "Table":
		return f != formatProtobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}

// forms allows what objects of the request's kind can be turned into: custom kinds have no protobuf form.
func (rq *request) forms(f format, as *schema.GroupVersionKind, p map[string]string) bool {
	return objectForms(f, as, p) && !(f == formatProtobuf && as == nil && rq.res.IsCustom())
}

// metadataForms is objectForms without Table: for answers that have metadata but no columns.
func metadataForms(f format, as *schema.GroupVersionKind, p map[string]string) bool {
	return objectForms(f, as, p) && (as == nil || as.Kind != "Table")
}

// negotiate chooses the first clause of Accept, by quality, that a format and the allowed transformations can satisfy.
func negotiate(req *http.Request, allowed func(format, *schema.GroupVersionKind, map[string]string) bool) (accept, bool) {
	header := strings.Join(req.Header.Values("Accept"), ",")
	if header == "" {
		return accept{pretty: wantsPretty(req)}, true
	}
	for _, c := range goautoneg.ParseAccept(header) {
		if c.Q == 0 {
			continue
		}
		for f, name := range mediaTypes {
			typ, sub, _ := strings.Cut(name, "/")
			if c.Type != "*" && c.Type != typ || c.SubType != "*" && c.SubType != sub {
				continue
			}
			as := transformation(c.Params)
			if s := c.Params["stream"]; s != "" && (s != "watch" || format(f) == formatYAML) {
				continue
			}
			if !allowed(format(f), as, c.Params) || c.Params["sv"] != "" {
				continue
			}
			return accept{format: format(f), as: as, params: c.Params, pretty: c.Params["pretty"] == "1" || wantsPretty(req)}, true
		}
	}
	return accept{}, false
}

func transformation(params map[string]string) *schema.GroupVersionKind {
	as := schema.GroupVersionKind{Group: params["g"], Version: params["v"], Kind: params["as"]}
	if as.Empty() {
		return nil
	}
	return &as
}

// mustNegotiate is negotiate with the 406 it means.
func mustNegotiate(req *http.Request, allowed func(format, *schema.GroupVersionKind, map[string]string) bool) (accept, error) {
	acc, ok := negotiate(req, allowed)
	if !ok {
		return acc, errNotAcceptable(mediaTypes[:]...)
	}
	return acc, nil
}

// negotiateStream is negotiate for watches, which have no YAML.
func negotiateStream(rq *request) (accept, error) {
	acc, ok := negotiate(rq.req, func(f format, as *schema.GroupVersionKind, p map[string]string) bool {
		return f != formatYAML && rq.forms(f, as, p)
	})
	if !ok {
		return acc, errNotAcceptable(runtime.ContentTypeJSON+";stream=watch", runtime.ContentTypeProtobuf+";stream=watch")
	}
	return acc, nil
}

// wantsPretty follows ?pretty=, and indents for people's own tools without being asked.
func wantsPretty(req *http.Request) bool {
	if strings.Contains(req.URL.RawQuery, "pretty") {
		if p := req.URL.Query().Get("pretty"); p != "" {
			pretty, _ := strconv.ParseBool(p)
			return pretty
		}
	}
	agent := req.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// bodyFormat reads Content-Type; nothing means JSON.
func bodyFormat(contentType string) (format, error) {
	if contentType == "" {
		return formatJSON, nil
	}
	if mt, _, err := mime.ParseMediaType(contentType); err == nil {
		for f, name := range mediaTypes {
			if mt == name {
				return format(f), nil
			}
		}
	}
	return 0, errUnsupportedMedia(mediaTypes[:]...)
}

package server

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/whalepod/whalepod/api/resource"
)

// serveOpenAPI answers /openapi/v2, /openapi/v3 and what is below it.
func (s *Server) serveOpenAPI(rq *request, path string) error {
	accept := strings.Join(rq.req.Header.Values("Accept"), ",")
	rq.out.Header().Set("Vary", "Accept")
	switch {
	case path == "/openapi/v2":
		doc, ok := s.Table.OpenAPIV2(accept)
		if !ok {
			return errNotAcceptable("application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
		}
		return s.writeOpenAPI(rq, doc)
	case path == "/openapi/v3":
		return s.writeOpenAPIIndex(rq)
	case strings.HasPrefix(path, "/openapi/v3/"):
		return s.serveOpenAPIV3(rq, strings.TrimPrefix(path, "/openapi/v3/"), accept)
	}
	return errNotFoundPath()
}

func (s *Server) writeOpenAPIIndex(rq *request) error {
	data := s.Table.OpenAPIV3Paths()
	etag := fmt.Sprintf("%X", sha512.Sum512(data))
	rq.out.Header().Set("ETag", strconv.Quote(etag))
	if etagMatches(rq.req, etag) {
		rq.out.WriteHeader(http.StatusNotModified)
		return nil
	}
	a := newAnswer(rq, http.StatusOK, "application/json")
	_, _ = a.Write(data)
	_ = a.close()
	return nil
}

// serveOpenAPIV3 answers one group version. With its hash in the URL a document never changes, and clients may keep it;
// with an old hash they are sent to the new one.
func (s *Server) serveOpenAPIV3(rq *request, name, accept string) error {
	doc, found, acceptable := s.Table.OpenAPIV3(name, accept)
	if !found {
		return errNotFoundPath()
	}
	if !acceptable {
		return errNotAcceptable("application/json", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
	}
	if hash := rq.query.Get("hash"); hash != "" {
		if hash != doc.Hash {
			u := url.URL{Path: rq.req.URL.Path, RawQuery: url.Values{"hash": {doc.Hash}}.Encode()}
			http.Redirect(rq.out, rq.req, u.String(), http.StatusMovedPermanently)
			return nil
		}
		h := rq.out.Header()
		h.Set("Cache-Control", "public, immutable")
		h.Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	return s.writeOpenAPI(rq, doc)
}

// writeOpenAPI sends the compressed document as it lies in the binary to whoever can unpack it.
func (s *Server) writeOpenAPI(rq *request, doc resource.Document) error {
	h := rq.out.Header()
	h.Set("ETag", strconv.Quote(doc.Hash))
	if etagMatches(rq.req, doc.Hash) {
		rq.out.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", doc.ContentType)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache, private")
	}
	if !acceptsGzip(rq.req) {
		_, err := doc.WriteTo(rq.out)
		return err
	}
	h.Set("Content-Encoding", "gzip")
	h.Set("Vary", "Accept, Accept-Encoding")
	h.Set("Content-Length", strconv.Itoa(len(doc.Gzip)))
	_, _ = rq.out.Write(doc.Gzip)
	return nil
}

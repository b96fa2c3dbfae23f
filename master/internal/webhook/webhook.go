// Package webhook calls what people have registered to be asked: webhooks of admission and of conversion, at a URL or behind a
// Service. It knows how they are reached and nothing of what they are asked.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// dialTimeout bounds how long a connection to a URL may take.
	dialTimeout = 10 * time.Second
	// idleTimeout closes connections that wait for the next request.
	idleTimeout = 30 * time.Second
	httpsPort   = 443
	// shownError is how much of an answer that is an error goes into the message, in bytes.
	shownError = 1024
)

// Dial connects to one of a Service's endpoints.
type Dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)

// Service is one that a webhook serves behind.
type Service struct {
	Namespace, Name string
	// Path and Port may be nil, for none and for 443.
	Path *string
	Port *int32
}

// Config says where a webhook is: at a URL or behind a Service. Whose certificates are trusted says CABundle, in PEM; those that
// the machine trusts when it is empty.
type Config struct {
	URL      *string
	Service  *Service
	CABundle []byte
}

// ID is the same for configurations that lead to the same webhook in the same way.
type ID [sha256.Size]byte

// ID of a configuration.
func (c *Config) ID() ID {
	text, _ := json.Marshal(c) // strings, numbers and bytes only
	return sha256.Sum256(text)
}

// Client calls one webhook. It may be used by many goroutines, which share its connections.
type Client struct {
	url  string
	http *http.Client
}

// New makes a client; it connects to nothing.
func New(c *Config, dial Dial) (*Client, error) {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 4,
		ForceAttemptHTTP2: true,
	}
	if len(c.CABundle) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CABundle) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	out := &Client{http: &http.Client{
		Transport: t,
		// Kubernetes' client would follow; a webhook that sends elsewhere what it was asked is no webhook.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if s := c.Service; s != nil {
		port := int32(httpsPort)
		if s.Port != nil {
			port = *s.Port
		}
		host := s.Name + "." + s.Namespace + ".svc"
		t.TLSClientConfig.ServerName = host
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, s.Namespace, s.Name, port) }
		u := url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
		if s.Path != nil {
			u.Path = *s.Path
		}
		out.url = u.String()
		return out, nil
	}
	if c.URL == nil {
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	out.url = *c.URL
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	return out, nil
}

// CloseIdle closes the connections that nobody uses now.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// Post sends JSON and gives the JSON that is answered, of at most limit bytes. query is what the URL gets, as in "?a=b", or "".
func (c *Client) Post(ctx context.Context, query string, body []byte, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+query, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("the answer is longer than %d bytes", limit)
	case res.StatusCode < 200 || res.StatusCode > 299:
		if len(data) > shownError {
			data = data[:shownError]
		}
		return nil, fmt.Errorf("an error on the server (%q) has prevented the request from succeeding: status %d", data, res.StatusCode)
	}
	return data, nil
}

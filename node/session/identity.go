// Package session is the agent's side of the agent protocol: it joins, keeps one connection to the master, hands what
// comes down to the desired state and sends up what happened. While the master is away everything waits, merged.
package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	identityFile = "identity.json"
	joinTimeout  = 30 * time.Second
)

// ErrNotJoined says that this machine is not a node yet.
var ErrNotJoined = errors.New("this machine has not joined a cluster: run `wp-agent join --master HOST:6444 --token TOKEN --ca-hash HASH`; `wpctl token create --print-join-command` prints the whole line")

// Identity is what makes this machine a node; it is kept in one file, mode 0600, so that it changes as a whole.
type Identity struct {
	// Node is this node's name, Masters the addresses of the agents' port of the masters.
	Node    string   `json:"node"`
	Masters []string `json:"masters"`
	// Certificate, Key and CA in PEM.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	// Config is the ClusterConfig last told, in protobuf's JSON.
	Config json.RawMessage `json:"config"`
	// PodCIDR of this node, once the master has given it one.
	PodCIDR string `json:"podCIDR,omitempty"`
}

// LoadIdentity reads the identity below dir; ErrNotJoined when there is none.
func LoadIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotJoined
	}
	if err != nil {
		return nil, err
	}
	id := &Identity{}
	if err := json.Unmarshal(data, id); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it and join again", path, err)
	}
	_, err = id.tls()
	if err == nil && len(id.Masters) == 0 {
		err = errors.New("it names no master")
	}
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it and join again", path, err)
	}
	return id, nil
}

// Save writes the identity at once and durably.
func (id *Identity) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+identityFile+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, identityFile)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ClusterConfig is what the master last said all machines agree on.
func (id *Identity) ClusterConfig() (*agentv1.ClusterConfig, error) {
	c := &agentv1.ClusterConfig{}
	if err := protojson.Unmarshal(id.Config, c); err != nil {
		return nil, fmt.Errorf("cluster configuration in the node's identity: %w", err)
	}
	return c, nil
}

func (id *Identity) setConfig(c *agentv1.ClusterConfig) (err error) {
	id.Config, err = protojson.Marshal(c)
	return err
}

func (id *Identity) tls() (*tls.Config, error) {
	pair, err := tls.X509KeyPair([]byte(id.Certificate), []byte(id.Key))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(id.CA)) {
		return nil, errors.New("no CA certificate in it")
	}
	c := trusting(pool)
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// trusting accepts a server of the cluster's CA under whatever name it is dialled: a machine may know the master by an
// address that its certificate does not list (behind NAT). The CA signs no servers but masters.
func trusting(pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection below does it, by the CA instead of a name
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}
}

// JoinOptions say which cluster to join and as whom.
type JoinOptions struct {
	// Master is host:port of the agents' port.
	Master, Token, NodeName string
	// CAHash is sha256:HEX of the CA's public key: by it this machine knows that it talks to the right master.
	CAHash string
	// Dial replaces TCP in tests.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// dialOptions of every connection to a master.
func dialOptions(c *tls.Config, dial func(context.Context, string) (net.Conn, error)) []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(c))}
	if dial != nil {
		options = append(options, grpc.WithContextDialer(dial))
	}
	return options
}

// Join trades the token for an identity and saves it below dir.
func Join(ctx context.Context, dir string, o JoinOptions) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	key, csr, err := newRequest(o.NodeName)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+o.Master, dialOptions(pinned(o.CAHash), o.Dial)...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	res, err := agentv1.NewAgentClient(conn).Join(ctx, &agentv1.JoinRequest{Token: o.Token, NodeName: o.NodeName, Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("the master at %s did not let this machine join: %s", o.Master, status.Convert(err).Message())
	}
	id := &Identity{
		Node: o.NodeName, Masters: []string{o.Master}, Certificate: string(res.Certificate), Key: string(key), CA: string(res.Ca),
	}
	if err := id.setConfig(res.Config); err != nil {
		return nil, err
	}
	if _, err := id.tls(); err != nil {
		return nil, fmt.Errorf("the master's answer is not usable: %w", err)
	}
	return id, id.Save(dir)
}

// caHash is what --ca-hash names a CA by.
func caHash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Trusts tells whether the identity is of the cluster whose CA has that hash. Another cluster's master may stand at the same
// address: it was installed anew.
func (id *Identity) Trusts(hash string) bool {
	for rest := []byte(id.CA); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil && caHash(ca) == hash {
			return true
		}
	}
}

// Expired tells whether the node's certificate is too old to be renewed: the machine was off for long, and must join again.
func (id *Identity) Expired(now time.Time) bool {
	cert := id.certificate()
	return cert != nil && now.After(cert.NotAfter)
}

func (id *Identity) certificate() *x509.Certificate {
	block, _ := pem.Decode([]byte(id.Certificate))
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

// newRequest makes a key (PEM) and a certificate request for it (PKCS #10, DER).
func newRequest(node string) (key, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + node}}, k)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), csr, err
}

// pinned trusts the one CA whose hash is given, and through it the master's certificate under whatever name; see trusting.
func pinned(hash string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection below does it, by the hash instead of a name
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, ca := range s.PeerCertificates[1:] {
				if caHash(ca) != hash {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(ca)
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
				return err
			}
			return fmt.Errorf("the master's CA is not the one with hash %s: wrong --ca-hash, or somebody stands in between", hash)
		},
	}
}

// Package satoken makes and reads the tokens of service accounts: JSON Web Tokens signed with the cluster's own key, with
// the claims that Kubernetes gives them (KEP-1205, KEP-4193). It knows signatures, audiences and times; whether the account,
// and what a token is bound to, still exist is for the caller to look up. It imports nothing of ours.
package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apimachinery/pkg/types"
)

// leeway for clocks that differ.
const leeway = 10 * time.Second

// Ref names an object by its UID too: another of the same name is not meant.
type Ref struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// Token is what a token says.
type Token struct {
	Namespace string
	Account   Ref
	// What the token is bound to: it ends with it. Node only says where the pod runs, unless Pod is nil.
	Pod, Secret, Node *Ref
	Audiences         []string
	Issued, Expires   time.Time
	// ID is this token's own (the claim jti); Sign makes it.
	ID string
}

// private are the claims below "kubernetes.io".
type private struct {
	Namespace string `json:"namespace,omitempty"`
	Account   Ref    `json:"serviceaccount,omitempty"`
	Pod       *Ref   `json:"pod,omitempty"`
	Secret    *Ref   `json:"secret,omitempty"`
	Node      *Ref   `json:"node,omitempty"`
}

type claims struct {
	jwt.Claims
	// Audience is always a list, as in Kubernetes; the library's own writes one alone as a string.
	Audience   []string `json:"aud"`
	Kubernetes private  `json:"kubernetes.io"`
}

// Authority signs and verifies.
type Authority struct {
	issuer string
	key    *ecdsa.PrivateKey
	keyID  string
	signer jose.Signer
}

// New makes an authority. issuer is the URL under which pods reach the API; it is the default audience too.
func New(issuer string, key *ecdsa.PrivateKey) (*Authority, error) {
	// The key's ID is made as Kubernetes makes it: the hash of the public key.
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("the key of service account tokens: %w", err)
	}
	sum := sha256.Sum256(der)
	a := &Authority{issuer: issuer, key: key, keyID: base64.RawURLEncoding.EncodeToString(sum[:])}
	a.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: a.keyID, Algorithm: string(jose.ES256)}}, nil)
	return a, err
}

// Issuer of the tokens.
func (a *Authority) Issuer() string { return a.issuer }

// Sign makes the token. Without audiences it is for the API.
func (a *Authority) Sign(t Token) (string, error) {
	if len(t.Audiences) == 0 {
		t.Audiences = []string{a.issuer}
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID, RFC 9562
	return jwt.Signed(a.signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer: a.issuer, Subject: User(t.Namespace, t.Account.Name),
			IssuedAt: jwt.NewNumericDate(t.Issued), NotBefore: jwt.NewNumericDate(t.Issued), Expiry: jwt.NewNumericDate(t.Expires),
			ID: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		},
		Audience:   t.Audiences,
		Kubernetes: private{Namespace: t.Namespace, Account: t.Account, Pod: t.Pod, Secret: t.Secret, Node: t.Node},
	}).Serialize()
}

// Errors of Verify.
var (
	// ErrForeign: not a token of this cluster at all.
	ErrForeign = errors.New("the bearer token is not one of this cluster's service accounts")
	// ErrInvalid: ours in form, but not (or no longer) good.
	ErrInvalid = errors.New("the service account token is not valid")
)

// Verify reads a token that is for at least one of the audiences; matched are those of them that it is for.
func (a *Authority) Verify(token string, audiences []string, now time.Time) (t Token, matched []string, err error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return t, nil, ErrForeign
	}
	var c claims
	if err := parsed.Claims(a.key.Public(), &c); err != nil || c.Issuer != a.issuer {
		return t, nil, ErrForeign
	}
	if c.Expiry == nil {
		return t, nil, fmt.Errorf("%w: it has no end", ErrInvalid)
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Issuer: a.issuer, Time: now}, leeway); err != nil {
		return t, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	k := c.Kubernetes
	if c.Subject != User(k.Namespace, k.Account.Name) || k.Account.UID == "" {
		return t, nil, fmt.Errorf("%w: its subject is not the account it names", ErrInvalid)
	}
	for _, want := range audiences {
		if slices.Contains(c.Audience, want) {
			matched = append(matched, want)
		}
	}
	if len(matched) == 0 {
		return t, nil, fmt.Errorf("%w: it is for %v, not for %v", ErrInvalid, c.Audience, audiences)
	}
	return Token{
		Namespace: k.Namespace, Account: k.Account, Pod: k.Pod, Secret: k.Secret, Node: k.Node, Audiences: c.Audience,
		Issued: c.IssuedAt.Time(), Expires: c.Expiry.Time(), ID: c.ID,
	}, matched, nil
}

// User is the name of a service account's user.
func User(namespace, name string) string { return "system:serviceaccount:" + namespace + ":" + name }

// Where OpenID Connect clients look for the documents of this issuer.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// Discovery is the document of DiscoveryPath (OpenID Connect Discovery 1.0, section 3); keysURL is where the keys are.
func (a *Authority) Discovery(keysURL string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer": a.issuer, "jwks_uri": keysURL, "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
}

// Keys is the document of KeysPath: the public key as a JSON Web Key Set (RFC 7517).
func (a *Authority) Keys() ([]byte, error) {
	var public crypto.PublicKey = a.key.Public()
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: a.keyID, Algorithm: string(jose.ES256), Use: "sig"}}})
}

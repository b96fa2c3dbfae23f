package satoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

func authority(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sample(now time.Time) Token {
	return Token{
		Namespace: "shop", Account: Ref{"web", "sa-uid"}, Pod: &Ref{"web-1", "pod-uid"}, Node: &Ref{"n1", "node-uid"},
		Issued: now, Expires: now.Add(time.Hour),
	}
}

func TestSignAndVerify(t *testing.T) {
	a, now := authority(t), time.Unix(1_800_000_000, 0)
	signed, err := a.Sign(sample(now))
	if err != nil {
		t.Fatal(err)
	}
	got, matched, err := a.Verify(signed, []string{"other", issuer}, now)
	if err != nil || !slices.Equal(matched, []string{issuer}) {
		t.Fatal(matched, err)
	}
	if got.Namespace != "shop" || got.Account != (Ref{"web", "sa-uid"}) || *got.Pod != (Ref{"web-1", "pod-uid"}) ||
		*got.Node != (Ref{"n1", "node-uid"}) || got.Secret != nil || !got.Expires.Equal(now.Add(time.Hour)) || len(got.ID) != 36 {
		t.Errorf("%+v", got)
	}
	// The names of the claims are Kubernetes': other programs read them.
	body, _ := base64.RawURLEncoding.DecodeString(strings.Split(signed, ".")[1])
	for _, want := range []string{`"aud":["` + issuer + `"]`, `"sub":"system:serviceaccount:shop:web"`, `"kubernetes.io":{"namespace":"shop"`, `"serviceaccount":{"name":"web","uid":"sa-uid"}`, `"pod":{"name":"web-1","uid":"pod-uid"}`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("claims %s lack %s", body, want)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	a, now := authority(t), time.Unix(1_800_000_000, 0)
	sign := func(by *Authority, change func(*Token)) string {
		token := sample(now)
		change(&token)
		s, err := by.Sign(token)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign(a, func(*Token) {})
	parts := strings.Split(good, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, test := range map[string]struct {
		token string
		at    time.Time
		want  error
	}{
		"good":             {good, now, nil},
		"clocks differ":    {good, now.Add(-5 * time.Second), nil},
		"another key":      {sign(authority(t), func(*Token) {}), now, ErrForeign},
		"unsigned":         {unsigned, now, ErrForeign},
		"not a token":      {"a.b.c", now, ErrForeign},
		"changed":          {parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2], now, ErrForeign},
		"expired":          {good, now.Add(2 * time.Hour), ErrInvalid},
		"from the future":  {good, now.Add(-time.Minute), ErrInvalid},
		"another audience": {sign(a, func(t *Token) { t.Audiences = []string{"vault"} }), now, ErrInvalid},
		"no account":       {sign(a, func(t *Token) { t.Account.UID = "" }), now, ErrInvalid},
	} {
		if _, _, err := a.Verify(test.token, []string{issuer}, test.at); !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	a := authority(t)
	keys, err := a.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(keys, &set); err != nil || len(set.Keys) != 1 || set.Keys[0]["d"] != "" || set.Keys[0]["kid"] == "" {
		t.Errorf("key set %s (a private key must not be in it): %v", keys, err)
	}
	doc, err := a.Discovery("https://198.51.100.11:6443" + KeysPath)
	if err != nil || !strings.Contains(string(doc), `"issuer":"`+issuer+`"`) || !strings.Contains(string(doc), KeysPath) {
		t.Errorf("%s, %v", doc, err)
	}
}

func FuzzVerify(f *testing.F) {
	a, now := authority(f), time.Unix(1_800_000_000, 0)
	good, err := a.Sign(sample(now))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if _, _, err := a.Verify(token, []string{issuer}, now); err == nil && token != good {
			// Base64 has several forms of the last character; anything else must not pass.
			if strings.Split(token, ".")[1] != strings.Split(good, ".")[1] {
				t.Errorf("verified: %q", token)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	a, now := authority(b), time.Now()
	token, _ := a.Sign(sample(now))
	for b.Loop() {
		if _, _, err := a.Verify(token, []string{issuer}, now); err != nil {
			b.Fatal(err)
		}
	}
}

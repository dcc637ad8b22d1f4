// SPDX-License-Identifier: Apache-2.0

package trustroot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	trustrootpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func spkiOf(key crypto.Signer) []byte { return must(x509.MarshalPKIXPublicKey(key.Public())) }

func newCertificate(name string, start time.Time) *x509.Certificate {
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"O of " + name}},
		NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))))
}

var begin = time.Date(2026, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600))

func newInstance() Instance {
	return Instance{
		PublicURL: "https://CA.example:8443",
		Authorities: []Authority{
			{Chain: []*x509.Certificate{newCertificate("b", begin.AddDate(0, 1, 0)), newCertificate("root", begin.AddDate(-1, 0, 0))}},
			{Chain: []*x509.Certificate{newCertificate("a", begin), newCertificate("root", begin.AddDate(-1, 0, 0))}, End: begin.AddDate(0, 2, 0)},
		},
		CTLogs:    []CTLog{{"https://log.example/2026", spkiOf(newKey())}},
		Providers: []string{"https://issuer.example"},
		TLogs:     []json.RawMessage{must(Marshal(must(NewTransparencyLog("https://rekor.example/a?b&c", spkiOf(newKey()), begin))))},
		TimestampAuthorities: []json.RawMessage{must(Marshal(NewCertificateAuthority("https://tsa.example",
			[]*x509.Certificate{newCertificate("tsa", begin), newCertificate("tsa root", begin)})))},
	}
}

// decode reads a rendered document, which is the same when it is rendered again.
func decode(t *testing.T, render func() ([]byte, error), message proto.Message) []byte {
	t.Helper()
	text := must(render())
	if err := protojson.Unmarshal(text, message); err != nil || !bytes.HasSuffix(text, []byte("}\n")) {
		t.Fatalf("%v in\n%s", err, text)
	}
	for range 10 {
		if again := must(render()); !bytes.Equal(text, again) {
			t.Fatalf("rendered %s, then %s", text, again)
		}
	}
	return text
}

// protobuf-specs can read the rendered document, and knows all of its fields.
func TestTrustedRoot(t *testing.T) {
	t.Parallel()
	i := newInstance()
	var got trustrootpb.TrustedRoot
	text := decode(t, i.TrustedRoot, &got)
	if got.GetMediaType() != "application/vnd.dev.sigstore.trustedroot+json;version=0.1" {
		t.Errorf("media type %q", got.GetMediaType())
	}
	if len(got.GetCertificateAuthorities()) != 2 || len(got.GetCtlogs()) != 1 || len(got.GetTlogs()) != 1 || len(got.GetTimestampAuthorities()) != 1 {
		t.Fatalf("%s", text)
	}
	for n, authority := range got.GetCertificateAuthorities() {
		chain := i.Authorities[n].Chain
		if end := authority.GetValidFor().GetEnd(); (end == nil) != i.Authorities[n].End.IsZero() || end != nil && !end.AsTime().Equal(i.Authorities[n].End) {
			t.Errorf("authority %d ends at %v, want %s", n, end, i.Authorities[n].End)
		}
		if !authority.GetValidFor().GetStart().AsTime().Equal(chain[0].NotBefore) || authority.GetUri() != i.PublicURL ||
			authority.GetSubject().GetCommonName() != chain[0].Subject.CommonName || authority.GetSubject().GetOrganization() != chain[0].Subject.Organization[0] {
			t.Errorf("authority %d is %v", n, authority)
		}
		if certificates := authority.GetCertChain().GetCertificates(); len(certificates) != 2 || !bytes.Equal(certificates[1].GetRawBytes(), chain[1].Raw) {
			t.Errorf("chain %d is %v", n, certificates)
		}
	}
	log, id := got.GetCtlogs()[0], sha256.Sum256(i.CTLogs[0].PublicKey)
	if log.GetBaseUrl() != i.CTLogs[0].URL || log.GetHashAlgorithm().String() != "SHA2_256" || !bytes.Equal(log.GetLogId().GetKeyId(), id[:]) ||
		log.GetPublicKey().GetKeyDetails().String() != "PKIX_ECDSA_P256_SHA_256" || !bytes.Equal(log.GetPublicKey().GetRawBytes(), i.CTLogs[0].PublicKey) {
		t.Errorf("log %v", log)
	}
	// The log is valid from the first certificate that the older of the two authorities can
	// have signed.
	if start := log.GetPublicKey().GetValidFor().GetStart().AsTime(); !start.Equal(begin) {
		t.Errorf("the log is valid from %s, want %s", start, begin)
	}
	if got.GetTlogs()[0].GetBaseUrl() != "https://rekor.example/a?b&c" || !bytes.Contains(text, []byte("a?b&c")) {
		t.Errorf("the transparency log's URL is not readable: %s", text)
	}
}

func TestSigningConfig(t *testing.T) {
	t.Parallel()
	i := newInstance()
	i.TLogs = append(i.TLogs, json.RawMessage(`{"baseUrl":"https://old.example","publicKey":{"validFor":{"start":"2020-01-01T00:00:00Z","end":"2021-01-01T00:00:00Z"}}}`))
	i.TimestampAuthorities = append(i.TimestampAuthorities, json.RawMessage(`{"certChain":{}}`))
	var got trustrootpb.SigningConfig
	text := decode(t, i.SigningConfig, &got)
	if got.GetMediaType() != "application/vnd.dev.sigstore.signingconfig.v0.2+json" {
		t.Errorf("media type %q", got.GetMediaType())
	}
	for name, test := range map[string]struct {
		services []*trustrootpb.Service
		url      string
		version  uint32
	}{
		"ca":    {got.GetCaUrls(), "https://CA.example:8443", 1},
		"oidc":  {got.GetOidcUrls(), "https://issuer.example", 1},
		"rekor": {got.GetRekorTlogUrls(), "https://rekor.example/a?b&c", 2},
		"tsa":   {got.GetTsaUrls(), "https://tsa.example", 1},
	} {
		if len(test.services) != 1 {
			t.Errorf("%s: %v, want one", name, test.services)
			continue
		}
		s := test.services[0]
		if s.GetUrl() != test.url || s.GetMajorApiVersion() != test.version || s.GetOperator() != "ca.example" || !s.GetValidFor().GetStart().AsTime().Equal(begin) {
			t.Errorf("%s: %v", name, s)
		}
	}
	if got.GetRekorTlogConfig().GetSelector().String() != "ANY" || got.GetTsaConfig().GetSelector().String() != "ANY" {
		t.Errorf("selectors in %s", text)
	}
	i.TLogs, i.TimestampAuthorities, i.Providers = nil, nil, nil
	text = must(i.SigningConfig())
	// An empty object makes sigstore-js throw.
	for _, absent := range []string{"rekorTlog", "tsa", "oidcUrls"} {
		if bytes.Contains(text, []byte(absent)) {
			t.Errorf("%s in %s", absent, text)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	ec := func(curve elliptic.Curve) []byte { return spkiOf(must(ecdsa.GenerateKey(curve, rand.Reader))) }
	_, edKey, _ := ed25519.GenerateKey(nil)
	for _, test := range []struct {
		spki []byte
		want string
	}{
		{ec(elliptic.P256()), "PKIX_ECDSA_P256_SHA_256"}, {ec(elliptic.P384()), "PKIX_ECDSA_P384_SHA_384"},
		{spkiOf(must(rsa.GenerateKey(rand.Reader, 2048))), "PKIX_RSA_PKCS1V15_2048_SHA256"},
		{ec(elliptic.P521()), ""}, {spkiOf(edKey), ""}, {[]byte("x"), ""}, {nil, ""},
	} {
		log, err := NewTransparencyLog("https://log.example", test.spki, begin)
		if (err == nil) != (test.want != "") || log.PublicKey.KeyDetails != test.want {
			t.Errorf("%q, %v, want %q", log.PublicKey.KeyDetails, err, test.want)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Instance){
		"no URL":          func(i *Instance) { i.PublicURL = "" },
		"no chain":        func(i *Instance) { i.Authorities = nil },
		"an empty chain":  func(i *Instance) { i.Authorities[1].Chain = nil },
		"a bad log key":   func(i *Instance) { i.CTLogs[0].PublicKey = []byte("x") },
		"a tlog, no JSON": func(i *Instance) { i.TLogs = []json.RawMessage{[]byte("{")} },
	} {
		i := newInstance()
		spoil(&i)
		if _, err := i.TrustedRoot(); err == nil {
			t.Errorf("%s: rendered", name)
		}
	}
	i := newInstance()
	i.TLogs = []json.RawMessage{[]byte(`[]`)}
	if _, err := i.SigningConfig(); err == nil {
		t.Error("a list for a log was taken")
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	document := []byte("{}\n")
	var renderError, told error
	h := Handler(func() ([]byte, error) { return document, renderError }, func(_ *http.Request, err error) { told = err })
	ask := func(method, tag string) *http.Response {
		request := httptest.NewRequest(method, "/trusted_root.json", nil)
		request.Header.Set("If-None-Match", tag)
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, request)
		return recorder.Result()
	}
	first := ask(http.MethodGet, "")
	tag := first.Header.Get("ETag")
	if first.StatusCode != http.StatusOK || len(tag) < 10 || first.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %v", first.Status, first.Header)
	}
	if got := ask(http.MethodGet, tag); got.StatusCode != http.StatusNotModified {
		t.Error("the same tag:", got.Status)
	}
	if got := ask(http.MethodPost, tag); got.StatusCode != http.StatusMethodNotAllowed {
		t.Error("POST:", got.Status)
	}
	document = []byte("{ }\n")
	if got := ask(http.MethodGet, tag); got.StatusCode != http.StatusOK || got.Header.Get("ETag") == tag {
		t.Error("another document:", got.Status)
	}
	renderError = errors.New("inner words")
	if got := ask(http.MethodGet, tag); got.StatusCode != http.StatusInternalServerError || !errors.Is(told, renderError) {
		t.Error("an error:", got.Status, told)
	} else if text := must(io.ReadAll(got.Body)); bytes.Contains(text, []byte("inner")) {
		t.Errorf("the inner error reached the client: %s", text)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package testca is a whole CA in memory: an OpenID provider, an authority, a log and a
// clock. After each test it proves every invariant again for every issued certificate, with
// crypto/x509 and certificate-transparency-go as independent verifiers. Only tests may import
// it.
package testca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/proof"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// Builder states how a World differs from the default one. A test changes one field.
type Builder struct {
	// Now is the clock of the CA, the log and the provider. Default: the real one.
	Now func() time.Time
	// Curve is the curve of the authority's key. Default: P-256.
	Curve elliptic.Curve
	// Issuing changes the issuing CA's certificate before it is signed.
	Issuing func(*x509.Certificate)
	// Wrap wraps the key of the CA's authority.
	Wrap func(crypto.Signer) crypto.Signer
	// Signer returns the signer for the key of chain's authority. Default: signer.Local.
	Signer func(chain *ca.Chain, key crypto.Signer) *signer.Signer
	// CTDisabled runs without a log.
	CTDisabled bool
	// LogInProcess submits by a function call instead of HTTP, unchecked: for benchmarks.
	LogInProcess bool
	// CT, where it is set, is a log to submit to, with its public key as PEM, instead of the world's own:
	// an embedded log without LogInProcess. The world does not prove its entries at the end.
	CT          ctlog.Log
	CTPublicKey []byte
	// Audit is the CA's audit log; nil for none.
	Audit *audit.Log
	// Logs is how many logs there are, in order of preference. Default: 1.
	Logs int
	// Budget is the time for a log's answer. Default: ctlog's.
	Budget time.Duration
}

// World is a CA with everything that it needs, and its issued certificates.
type World struct {
	CA        *ca.CA
	Provider  *provider.Provider
	Log       *testlog.Log // the first of Logs
	Logs      []*testlog.Log
	CT        *ctlog.Logs // nil if Certificate Transparency is disabled
	Authority *ca.Authority
	// Set is the CA set in force: Authority alone, until a test replaces it.
	Set    atomic.Pointer[set.Set]
	Logger *slog.Logger

	root *x509.Certificate
	now  func() time.Time

	mu     sync.Mutex // guards the fields below
	issued []*ca.Issued
}

// New creates the world. When the test ends, the world proves every certificate that Issue
// returned again.
func New(tb testing.TB, b Builder) *World {
	tb.Helper()
	b.setDefaults()
	w := &World{now: b.Now, Logger: slog.New(slog.DiscardHandler)}
	w.Authority, w.root = b.authority(tb)
	begin := w.Authority.Chain().NotBefore
	w.Set.Store(must(set.New(1, []set.Member{{ID: "test", Chain: w.Authority.Chain(), Authority: w.Authority, PublishAt: begin, ActivateAt: begin}}))(tb))

	providerServer := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.Provider.ServeHTTP(rw, r) }))
	issuerURL := "http://" + providerServer.Listener.Addr().String()
	w.Provider = must(provider.New(provider.Config{IssuerURL: issuerURL, Now: b.Now}))(tb)
	providerServer.Start()
	tb.Cleanup(providerServer.Close)

	for i := range b.Logs {
		w.Logs = append(w.Logs, must(testlog.New(testlog.Config{
			Name: fmt.Sprint("log ", i), Roots: []*x509.Certificate{w.root}, Now: b.Now, Unchecked: b.LogInProcess,
		}))(tb))
	}
	w.Log, w.CT = w.Logs[0], b.logs(tb, w)
	verifier := must(oidc.New(oidc.Config{
		Issuers:       []oidc.Issuer{{Key: issuerURL, Audiences: []string{"sigstore"}}},
		AllowLoopback: true,
		Now:           b.Now,
		Logger:        w.Logger,
	}))(tb)
	rules, _, err := identity.NewRules(identity.Config{
		Issuers: []identity.IssuerConfig{{Key: issuerURL, Static: true, IssuerURL: issuerURL, Type: identity.TypeEmail}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	w.CA = must(ca.New(ca.Config{
		Verifier:    verifier,
		Rules:       rules,
		KeyPolicy:   must(proof.NewKeyPolicy())(tb),
		Active:      func(now time.Time) (*ca.Authority, error) { return w.Set.Load().Active(now) },
		TrustBundle: func(now time.Time) []*ca.Chain { return w.Set.Load().TrustBundle(now) },
		Profile:     must(ca.NewProfile(0))(tb),
		Logs:        w.CT,
		Audit:       b.Audit,
		Now:         b.Now,
		Logger:      w.Logger,
	}))(tb)
	tb.Cleanup(func() { w.prove(tb) })
	return w
}

func (b *Builder) setDefaults() {
	if b.Now == nil {
		b.Now = time.Now
	}
	if b.Curve == nil {
		b.Curve = elliptic.P256()
	}
	if b.Logs == 0 {
		b.Logs = 1
	}
}

// logs returns the logs of the CA; nil where Certificate Transparency is disabled.
func (b *Builder) logs(tb testing.TB, w *World) *ctlog.Logs {
	if b.CTDisabled {
		return nil
	}
	config := ctlog.Config{Budget: b.Budget, Now: b.Now, Logger: w.Logger}
	if b.CT != nil {
		config.Logs = []ctlog.LogConfig{{Log: b.CT, PublicKey: b.CTPublicKey, TrustsSubmitter: !b.LogInProcess}}
		return must(ctlog.New(config))(tb)
	}
	for _, l := range w.Logs {
		var log ctlog.Log = l
		if !b.LogInProcess {
			server := httptest.NewServer(l)
			tb.Cleanup(server.Close)
			remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: server.URL})
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(remote.CloseIdleConnections)
			log = remote
		}
		config.Logs = append(config.Logs, ctlog.LogConfig{Log: log, PublicKey: l.PublicKeyPEM()})
	}
	return must(ctlog.New(config))(tb)
}

// authority creates a root and an issuing CA.
func (b *Builder) authority(tb testing.TB) (*ca.Authority, *x509.Certificate) {
	rootKey, issuingKey := b.newKey(tb), b.newKey(tb)
	begin := b.Now().Add(-time.Hour).Truncate(time.Second)
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber:          big.NewInt(1),
			Subject:               pkix.Name{CommonName: name, Organization: []string{"mayfly test"}},
			NotBefore:             begin,
			NotAfter:              begin.AddDate(3, 0, 0),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
	}
	rootTemplate := template("test root")
	root := create(tb, rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	issuingTemplate := template("test intermediate")
	issuingTemplate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	issuingTemplate.MaxPathLenZero = true
	if b.Issuing != nil {
		b.Issuing(issuingTemplate)
	}
	issuing := create(tb, issuingTemplate, root, issuingKey.Public(), rootKey)
	chain := must(ca.NewChain([]*x509.Certificate{issuing, root}))(tb)
	var key crypto.Signer = issuingKey
	if b.Wrap != nil {
		key = b.Wrap(key)
	}
	signs := must(signer.Local("test", key, nil))(tb)
	if b.Signer != nil {
		signs = b.Signer(chain, key)
	}
	return must(ca.NewAuthority("test", chain, signs))(tb), root
}

func (b *Builder) newKey(tb testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(b.Curve, rand.Reader))(tb)
}

func create(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, public, key))(tb)))(tb)
}

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

// Token returns an ID token with claims in addition to those of every token of the world: a
// verified email address, and a subject.
func (w *World) Token(tb testing.TB, claims map[string]any) string {
	tb.Helper()
	all := map[string]any{"aud": "sigstore", "sub": "subject-1", "email": "person@example.com", "email_verified": true}
	for name, value := range claims {
		all[name] = value
	}
	return must(w.Provider.Mint(all))(tb)
}

// Request returns a request with token for a new P-256 key that signs challenge.
func (w *World) Request(tb testing.TB, token, challenge string) ca.Request {
	tb.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(tb)
	digest := sha256.Sum256([]byte(challenge))
	signature := must(ecdsa.SignASN1(rand.Reader, key, digest[:]))(tb)
	spki := must(x509.MarshalPKIXPublicKey(key.Public()))(tb)
	return ca.Request{
		IDToken:   token,
		Proof:     proof.SignedChallenge{PublicKey: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), Signature: signature},
		RequestID: "test",
	}
}

// Issue asks the CA, and records the certificate for the proof at the end.
func (w *World) Issue(ctx context.Context, req ca.Request) (*ca.Issued, error) {
	issued, err := w.CA.Issue(ctx, req)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.issued = append(w.issued, issued)
	}
	return issued, err
}

// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
)

// testSigstoreGo uses sigstore-go as a library: REST v2, the token in the bearer header, proof of
// possession by signed challenge.
func testSigstoreGo(t *testing.T, w *world) {
	runChecks(t, w, []check{
		{"signs a blob with certificate, timestamp and Rekor v2 entry, and verifies it", goSignsBlob},
		{"signs an in-toto statement and verifies it", goSignsStatement},
		{"finds the services and the trusted root through TUF", goUsesTUF},
		{"signs with every key algorithm", goSignsWithEveryKey},
		{"takes a base URL that ends in a slash", goTakesSlash},
		{"verifies a CI run by its extensions", goVerifiesExtensions},
		{"verifies a user name", goVerifiesUserName},
		{"refuses another identity, another issuer and a tampered blob", goRefusesBlob},
		{"shows its user why a token was refused", goShowsRefusal},
	})
}

// goClient is a program that signs and verifies with sigstore-go.
type goClient struct {
	trusted root.TrustedMaterial
	signing *root.SigningConfig
	rekor   bool // request a Rekor v2 entry, and require one
}

// newGoClient reads trusted_root.json and signing_config.v0.2.json from their files.
func newGoClient(t *testing.T, w *world) *goClient {
	t.Helper()
	trusted, err := root.NewTrustedRootFromPath(w.trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := root.NewSigningConfigFromPath(w.signingConfig)
	if err != nil {
		t.Fatal(err)
	}
	return &goClient{trusted: trusted, signing: signing, rekor: true}
}

// sign returns the bundle of content, read back from its JSON form. Keys are generated for
// algorithm; its zero value stands for the library's default.
func (c *goClient) sign(t *testing.T, token string, content sign.Content, algorithm protocommon.PublicKeyDetails) (*bundle.Bundle, error) {
	t.Helper()
	keypair, err := sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Algorithm: algorithm})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca, err := root.SelectService(c.signing.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	tsas, err := root.SelectServices(c.signing.TimestampAuthorityURLs(), c.signing.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := root.SelectServices(c.signing.RekorLogURLs(), c.signing.RekorLogURLsConfig(), sign.RekorAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	options := sign.BundleOptions{
		Context:                    t.Context(),
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: ca.URL}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
		TimestampAuthorities:       []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: tsas[0].URL})},
		TrustedRoot:                c.trusted,
	}
	if c.rekor {
		options.TransparencyLogs = []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: logs[0].URL, Version: logs[0].MajorAPIVersion})}
	}
	signed, err := sign.Bundle(content, keypair, options)
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	return b, nil
}

// mustSign is sign for content that must be signed.
func (c *goClient) mustSign(t *testing.T, token string, content sign.Content, algorithm protocommon.PublicKeyDetails) *bundle.Bundle {
	t.Helper()
	b, err := c.sign(t, token, content, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verify requires an SCT, a timestamp, a log entry if c has them, the identity, and that artifact
// is the signed content.
func (c *goClient) verify(t *testing.T, b *bundle.Bundle, artifact []byte, identity verify.CertificateIdentity) (*verify.VerificationResult, error) {
	t.Helper()
	options := []verify.VerifierOption{verify.WithSignedCertificateTimestamps(1), verify.WithSignedTimestamps(1)}
	if c.rekor {
		options = append(options, verify.WithTransparencyLog(1))
	}
	verifier, err := verify.NewVerifier(c.trusted, options...)
	if err != nil {
		t.Fatal(err)
	}
	return verifier.Verify(b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(artifact)), verify.WithCertificateIdentity(identity)))
}

// mustVerify is verify for a bundle that must pass; it returns the certificate as the library reads
// it.
func (c *goClient) mustVerify(t *testing.T, b *bundle.Bundle, identity verify.CertificateIdentity) *certificate.Summary {
	t.Helper()
	result, err := c.verify(t, b, blob, identity)
	if err != nil {
		t.Fatal(err)
	}
	return result.Signature.Certificate
}

func identity(t *testing.T, issuer, san string, extensions certificate.Extensions) verify.CertificateIdentity {
	t.Helper()
	id, err := verify.NewCertificateIdentity(
		verify.SubjectAlternativeNameMatcher{SubjectAlternativeName: san}, verify.IssuerMatcher{Issuer: issuer}, extensions)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func goSignsBlob(t *testing.T, w *world) {
	c := newGoClient(t, w)
	b := c.mustSign(t, w.aliceToken(t), &sign.PlainData{Data: blob}, 0)
	got := c.mustVerify(t, b, identity(t, w.email.url, alice, certificate.Extensions{}))
	if got.SubjectAlternativeName != alice || got.Issuer != w.email.url {
		t.Errorf("the certificate names %q of %q", got.SubjectAlternativeName, got.Issuer)
	}
}

func goSignsStatement(t *testing.T, w *world) {
	c := newGoClient(t, w)
	content := &sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}
	b := c.mustSign(t, w.aliceToken(t), content, 0)
	c.mustVerify(t, b, identity(t, w.email.url, alice, certificate.Extensions{}))
}

func goUsesTUF(t *testing.T, w *world) {
	first, err := os.ReadFile(w.tufRoot)
	if err != nil {
		t.Fatal(err)
	}
	client, err := tuf.New(&tuf.Options{Root: first, RepositoryBaseURL: w.tuf, CachePath: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := &goClient{rekor: true}
	if c.trusted, err = root.GetTrustedRoot(client); err != nil {
		t.Fatal(err)
	}
	if c.signing, err = root.GetSigningConfig(client); err != nil {
		t.Fatal(err)
	}
	b := c.mustSign(t, w.aliceToken(t), &sign.PlainData{Data: blob}, 0)
	c.mustVerify(t, b, identity(t, w.email.url, alice, certificate.Extensions{}))
}

// Rekor v2 takes no entry by a plain Ed25519 key, so this test uses a timestamp only.
func goSignsWithEveryKey(t *testing.T, w *world) {
	c := newGoClient(t, w)
	c.rekor = false
	for _, algorithm := range []protocommon.PublicKeyDetails{
		protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
		protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
		protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
		protocommon.PublicKeyDetails_PKIX_ED25519,
	} {
		t.Run(algorithm.String(), func(t *testing.T) {
			t.Parallel()
			content := &sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}
			b := c.mustSign(t, w.aliceToken(t), content, algorithm)
			c.mustVerify(t, b, identity(t, w.email.url, alice, certificate.Extensions{}))
		})
	}
}

// The library concatenates the URL, so it then requests //api/v2/signingCert.
func goTakesSlash(t *testing.T, w *world) {
	keypair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	fulcio := sign.NewFulcio(&sign.FulcioOptions{BaseURL: w.mayfly + "/"})
	der, err := fulcio.GetCertificate(t.Context(), keypair, &sign.CertificateProviderOptions{IDToken: w.aliceToken(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		t.Error(err)
	}
}

func goVerifiesExtensions(t *testing.T, w *world) {
	c := newGoClient(t, w)
	b := c.mustSign(t, w.githubToken(t), &sign.PlainData{Data: blob}, 0)
	c.mustVerify(t, b, identity(t, w.github.url, ghIdentity, certificate.Extensions{
		GithubWorkflowTrigger:    "push",
		GithubWorkflowSHA:        ghSHA,
		GithubWorkflowName:       "release",
		GithubWorkflowRepository: ghRepository,
		GithubWorkflowRef:        "refs/heads/main",
		BuildSignerURI:           ghIdentity,
		RunnerEnvironment:        "github-hosted",
		SourceRepositoryURI:      "https://github.com/" + ghRepository,
		SourceRepositoryDigest:   ghSHA,
		RunInvocationURI:         "https://github.com/" + ghRepository + "/actions/runs/9001/attempts/2",
	}))

	elsewhere := identity(t, w.github.url, ghIdentity, certificate.Extensions{SourceRepositoryURI: "https://github.com/octo-org/other"})
	_, err := c.verify(t, b, blob, elsewhere)
	wantMismatch(t, err)
}

func goVerifiesUserName(t *testing.T, w *world) {
	c := newGoClient(t, w)
	token := w.username.mint(t, map[string]any{"sub": "bob"})
	b := c.mustSign(t, token, &sign.PlainData{Data: blob}, 0)
	c.mustVerify(t, b, identity(t, w.username.url, "bob!127.0.0.1", certificate.Extensions{}))
}

func goRefusesBlob(t *testing.T, w *world) {
	c := newGoClient(t, w)
	b := c.mustSign(t, w.aliceToken(t), &sign.PlainData{Data: blob}, 0)
	_, err := c.verify(t, b, blob, identity(t, w.email.url, "mallory@example.org", certificate.Extensions{}))
	wantMismatch(t, err)
	_, err = c.verify(t, b, blob, identity(t, w.github.url, alice, certificate.Extensions{}))
	wantMismatch(t, err)
	_, err = c.verify(t, b, tampered(), identity(t, w.email.url, alice, certificate.Extensions{}))
	if err == nil || !strings.Contains(err.Error(), "could not verify message") {
		t.Errorf("the error is %v, want one about the message's signature", err)
	}
}

// wantMismatch requires the error that states that only the identity is wrong.
func wantMismatch(t *testing.T, err error) {
	t.Helper()
	var mismatch *verify.ErrNoMatchingCertificateIdentity
	if !errors.As(err, &mismatch) {
		t.Errorf("the error is %v, want a mismatch of identities", err)
	}
}

// sigstore-go shows the body of a 4xx to its user, so the body must contain the reason.
func goShowsRefusal(t *testing.T, w *world) {
	c := newGoClient(t, w)
	_, err := c.sign(t, w.expiredToken(t), &sign.PlainData{Data: blob}, 0)
	if err == nil {
		t.Fatal("an expired token was accepted")
	}
	for _, want := range []string{"401", "TOKEN_EXPIRED"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the user does not see %q in: %v", want, err)
		}
	}
}

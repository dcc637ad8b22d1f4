// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"strings"
	"testing"
)

// testCosign3 uses cosign 3 as its own documentation does: initialized with a TUF mirror, and then
// without a flag that names a service. It requests certificates over REST v2.
func testCosign3(t *testing.T, w *world) {
	runChecks(t, w, []check{
		{"initializes itself from the TUF mirror", cosign3Initializes},
		{"signs and verifies an image without further flags", cosign3SignsImage},
		{"refuses an image signed by another identity", cosign3RefusesImage},
		{"refuses an image that nobody signed", cosign3RefusesUnsigned},
		{"signs and verifies a blob", cosign3SignsBlob},
		{"verifies a blob by its GitHub workflow", cosign3VerifiesWorkflow},
		{"attests to an image and verifies the attestation", cosign3Attests},
		{"refuses another identity, another issuer and a tampered blob", cosign3RefusesBlob},
	})
}

// newCosign3 returns a sandbox in which `cosign initialize` has been run.
func newCosign3(t *testing.T, w *world) *sandbox {
	t.Helper()
	s := newSandbox(t)
	s.mustRun(t, w.tools.cosign3, "initialize", "--mirror", w.tuf, "--root", w.tufRoot)
	return s
}

// cosign3SignBlob signs blob with token and returns the paths of the blob and its bundle.
func (w *world) cosign3SignBlob(t *testing.T, s *sandbox, token string) (path, bundle string) {
	t.Helper()
	path, bundle = s.write(t, "blob", blob), s.write(t, "blob.sigstore.json", nil)
	s.mustRun(t, w.tools.cosign3, "sign-blob", "--yes", "--identity-token", token, "--bundle", bundle, path)
	return path, bundle
}

func cosign3Initializes(t *testing.T, w *world) {
	s := newCosign3(t, w)
	out := trim(s.mustRun(t, w.tools.cosign3, "trusted-root", "create", "--with-default-services"))
	for _, want := range []string{w.mayfly, w.tsa, w.rekor} {
		if !strings.Contains(out, want) {
			t.Errorf("the trusted root that cosign took over lacks %s", want)
		}
	}
}

// An ambient token, an image, nothing else: the example in introductions to keyless signing.
func cosign3SignsImage(t *testing.T, w *world) {
	s := newCosign3(t, w)
	image := w.pushImage(t, "signed")
	s.setenv("SIGSTORE_ID_TOKEN", w.aliceToken(t))
	s.mustRun(t, w.tools.cosign3, "sign", "--yes", image)
	out := s.mustRun(t, w.tools.cosign3, "verify", "--certificate-identity", alice, "--certificate-oidc-issuer", w.email.url, image)
	if !strings.Contains(string(out), strings.SplitN(image, "@", 2)[1]) {
		t.Errorf("cosign verified something, but not %s: %s", image, out)
	}
}

func cosign3RefusesImage(t *testing.T, w *world) {
	s := newCosign3(t, w)
	image := w.pushImage(t, "alices")
	s.setenv("SIGSTORE_ID_TOKEN", w.aliceToken(t))
	s.mustRun(t, w.tools.cosign3, "sign", "--yes", image)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3, "verify",
		"--certificate-identity", "mallory@example.org", "--certificate-oidc-issuer", w.email.url, image)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3, "verify",
		"--certificate-identity", alice, "--certificate-oidc-issuer", w.github.url, image)
}

func cosign3RefusesUnsigned(t *testing.T, w *world) {
	s := newCosign3(t, w)
	s.mustFail(t, "no signatures found", w.tools.cosign3, "verify",
		"--certificate-identity", alice, "--certificate-oidc-issuer", w.email.url, w.pushImage(t, "unsigned"))
}

func cosign3SignsBlob(t *testing.T, w *world) {
	s := newCosign3(t, w)
	path, bundle := w.cosign3SignBlob(t, s, w.aliceToken(t))
	s.mustRun(t, w.tools.cosign3, "verify-blob", "--bundle", bundle,
		"--certificate-identity", alice, "--certificate-oidc-issuer", w.email.url, path)
}

func cosign3VerifiesWorkflow(t *testing.T, w *world) {
	s := newCosign3(t, w)
	path, bundle := w.cosign3SignBlob(t, s, w.githubToken(t))
	args := []string{"verify-blob", "--bundle", bundle,
		"--certificate-identity", ghIdentity, "--certificate-oidc-issuer", w.github.url,
		"--certificate-github-workflow-trigger", "push",
		"--certificate-github-workflow-sha", ghSHA,
		"--certificate-github-workflow-name", "release",
		"--certificate-github-workflow-repository", ghRepository}
	s.mustRun(t, w.tools.cosign3, append(args, "--certificate-github-workflow-ref", "refs/heads/main", path)...)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3, append(args, "--certificate-github-workflow-ref", "refs/heads/evil", path)...)
}

func cosign3Attests(t *testing.T, w *world) {
	s := newCosign3(t, w)
	image := w.pushImage(t, "attested")
	predicate := s.write(t, "predicate.json", []byte(`{"passed":true}`))
	const kind = "https://example.org/test/v1"
	s.setenv("SIGSTORE_ID_TOKEN", w.aliceToken(t))
	s.mustRun(t, w.tools.cosign3, "attest", "--yes", "--type", kind, "--predicate", predicate, image)
	s.mustRun(t, w.tools.cosign3, "verify-attestation", "--type", kind,
		"--certificate-identity", alice, "--certificate-oidc-issuer", w.email.url, image)
}

func cosign3RefusesBlob(t *testing.T, w *world) {
	s := newCosign3(t, w)
	path, bundle := w.cosign3SignBlob(t, s, w.aliceToken(t))
	const identity = "no matching CertificateIdentity found"
	for _, c := range []struct{ why, identity, issuer, path string }{
		{identity, "mallory@example.org", w.email.url, path},
		{identity, alice, w.github.url, path},
		{"could not verify message: invalid signature", alice, w.email.url, s.write(t, "other", tampered())},
	} {
		s.mustFail(t, c.why, w.tools.cosign3, "verify-blob", "--bundle", bundle, "--certificate-identity", c.identity, "--certificate-oidc-issuer", c.issuer, c.path)
	}
}

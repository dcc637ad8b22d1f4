// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"path/filepath"
	"testing"
)

// testCosign2 uses cosign 2 with the flags and variables from before signing configs and trusted
// roots. With them it requests certificates over REST v1.
//
// These flags support only Rekor v1, and this world has Rekor v2. So nothing is uploaded
// (--tlog-upload=false) and no entry is required (--insecure-ignore-tlog). A timestamp proves the
// time of signing. The SCT is always verified, on signing and on verifying.
func testCosign2(t *testing.T, w *world) {
	runChecks(t, w, []check{
		{"signs and verifies a blob over REST v1", cosign2SignsBlob},
		{"signs and verifies an image over REST v1", cosign2SignsImage},
		{"refuses another identity, another issuer and a tampered blob", cosign2RefusesBlob},
		{"refuses an SCT of an unknown log", cosign2RefusesSCT},
	})
}

// newCosign2 returns a sandbox with variables for this world's CA and log.
func newCosign2(t *testing.T, w *world) *sandbox {
	t.Helper()
	s := newSandbox(t)
	s.setenv("SIGSTORE_ROOT_FILE", w.caChain)
	s.setenv("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", w.log.keyFile)
	return s
}

// cosign2Sign are the arguments before the content to sign.
func (w *world) cosign2Sign(command, token string, more ...string) []string {
	return append([]string{command, "--yes", "--identity-token", token, "--fulcio-url", w.mayfly,
		"--timestamp-server-url", w.tsa, "--tlog-upload=false"}, more...)
}

// cosign2Verify are the arguments before the content to verify.
func (w *world) cosign2Verify(command, identity, issuer string, more ...string) []string {
	return append([]string{command, "--certificate-identity", identity, "--certificate-oidc-issuer", issuer,
		"--timestamp-certificate-chain", w.tsaChain, "--use-signed-timestamps", "--insecure-ignore-tlog"}, more...)
}

// cosign2SignBlob signs blob as alice and returns its path and the flags that name the other
// results.
func (w *world) cosign2SignBlob(t *testing.T, s *sandbox) (path string, material []string) {
	t.Helper()
	path = s.write(t, "blob", blob)
	in := func(name string) string { return filepath.Join(s.dir, name) }
	s.mustRun(t, w.tools.cosign2, w.cosign2Sign("sign-blob", w.aliceToken(t),
		"--output-signature", in("sig"), "--output-certificate", in("cert"), "--rfc3161-timestamp", in("ts"),
		"--bundle", in("bundle"), path)...)
	return path, []string{"--signature", in("sig"), "--certificate", in("cert"), "--rfc3161-timestamp", in("ts")}
}

func cosign2SignsBlob(t *testing.T, w *world) {
	s := newCosign2(t, w)
	path, material := w.cosign2SignBlob(t, s)
	s.mustRun(t, w.tools.cosign2, append(w.cosign2Verify("verify-blob", alice, w.email.url, material...), path)...)
}

func cosign2SignsImage(t *testing.T, w *world) {
	s := newCosign2(t, w)
	image := w.pushImage(t, "cosign2")
	s.mustRun(t, w.tools.cosign2, w.cosign2Sign("sign", w.githubToken(t), image)...)
	s.mustRun(t, w.tools.cosign2, w.cosign2Verify("verify", ghIdentity, w.github.url, image)...)
}

func cosign2RefusesBlob(t *testing.T, w *world) {
	s := newCosign2(t, w)
	path, material := w.cosign2SignBlob(t, s)
	const identity = "none of the expected identities matched"
	for _, c := range []struct{ why, identity, issuer, path string }{
		{identity, "mallory@example.org", w.email.url, path},
		{identity, alice, w.github.url, path},
		{"invalid signature when validating", alice, w.email.url, s.write(t, "other", tampered())},
	} {
		s.mustFail(t, c.why, w.tools.cosign2, append(w.cosign2Verify("verify-blob", c.identity, c.issuer, material...), c.path)...)
	}
}

func cosign2RefusesSCT(t *testing.T, w *world) {
	s := newSandbox(t)
	s.setenv("SIGSTORE_ROOT_FILE", w.caChain)
	s.setenv("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", startLog(t).keyFile)
	s.mustFail(t, "ctfe public key not found", w.tools.cosign2,
		w.cosign2Sign("sign-blob", w.aliceToken(t), s.write(t, "blob", blob))...)
}

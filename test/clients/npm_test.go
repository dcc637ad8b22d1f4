// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"testing"
)

// testNPM uses npm's sigstore packages: REST v2, the token in the JSON body, a timeout of five
// seconds, and an SCT of a log in the trusted root.
func testNPM(t *testing.T, w *world) {
	runChecks(t, w, []check{
		{"signs and verifies with a timestamp", npmSignsWithTimestamp},
		{"signs and verifies with a timestamp and a Rekor v2 entry", npmSignsWithRekor},
		{"signs and verifies an in-toto statement", npmSignsStatement},
		{"refuses another identity, another issuer and a tampered blob", npmRefusesBlob},
	})
}

// npmRequest is what npm/client.cjs reads, as JSON.
type npmRequest map[string]any

func (w *world) npmArgs(t *testing.T, s *sandbox, request npmRequest) []string {
	t.Helper()
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join("npm", "client.cjs"))
	if err != nil {
		t.Fatal(err)
	}
	return []string{script, s.write(t, "request.json", text)}
}

func newNPM(t *testing.T, w *world) *sandbox {
	t.Helper()
	s := newSandbox(t)
	s.setenv("NODE_PATH", w.tools.nodeModules)
	return s
}

// npmServices are the options of sigstore.sign and sigstore.attest. These support only Rekor v1, so
// the options disable the upload.
func (w *world) npmServices() map[string]any {
	return map[string]any{"fulcioURL": w.mayfly, "tsaServerURL": w.tsa, "tlogUpload": false}
}

// npmSign signs blob as alice and returns the paths of blob and bundle.
func (w *world) npmSign(t *testing.T, s *sandbox) (path, bundle string) {
	t.Helper()
	path = s.write(t, "blob", blob)
	out := s.mustRun(t, w.tools.node, w.npmArgs(t, s, npmRequest{
		"action": "sign", "blob": path, "token": w.aliceToken(t), "options": w.npmServices(),
	})...)
	return path, s.write(t, "bundle.json", out)
}

// npmVerify is the request to verify; options are added to those that every check needs.
func (w *world) npmVerify(s *sandbox, path, bundle string, options map[string]any) npmRequest {
	all := map[string]any{
		"tufMirrorURL":   w.tuf,
		"tufRootPath":    w.tufRoot,
		"tufCachePath":   filepath.Join(s.dir, "tuf"),
		"ctLogThreshold": 1,
	}
	maps.Copy(all, options)
	return npmRequest{"action": "verify", "blob": path, "bundle": bundle, "options": all}
}

func npmSignsWithTimestamp(t *testing.T, w *world) {
	s := newNPM(t, w)
	path, bundle := w.npmSign(t, s)
	s.mustRun(t, w.tools.node, w.npmArgs(t, s, w.npmVerify(s, path, bundle, map[string]any{
		"certificateIdentityEmail": alice, "certificateIssuer": w.email.url, "tlogThreshold": 0,
	}))...)
}

func npmSignsWithRekor(t *testing.T, w *world) {
	s := newNPM(t, w)
	path := s.write(t, "blob", blob)
	out := s.mustRun(t, w.tools.node, w.npmArgs(t, s, npmRequest{
		"action": "build", "blob": path, "token": w.githubToken(t), "signingConfig": w.signingConfig,
	})...)
	s.mustRun(t, w.tools.node, w.npmArgs(t, s, w.npmVerify(s, path, s.write(t, "bundle.json", out), map[string]any{
		"certificateIdentityURI": ghIdentity, "certificateIssuer": w.github.url, "tlogThreshold": 1,
	}))...)
}

// @sigstore/sign would send Rekor v2 a dsse entry, which rekor-server refuses since 2.3, so this
// test uses a timestamp only.
func npmSignsStatement(t *testing.T, w *world) {
	s := newNPM(t, w)
	path := s.write(t, "statement.json", []byte(statement))
	out := s.mustRun(t, w.tools.node, w.npmArgs(t, s, npmRequest{
		"action": "attest", "blob": path, "type": "application/vnd.in-toto+json",
		"token": w.aliceToken(t), "options": w.npmServices(),
	})...)
	s.mustRun(t, w.tools.node, w.npmArgs(t, s, w.npmVerify(s, path, s.write(t, "bundle.json", out), map[string]any{
		"certificateIdentityEmail": alice, "certificateIssuer": w.email.url, "tlogThreshold": 0,
	}))...)
}

func npmRefusesBlob(t *testing.T, w *world) {
	s := newNPM(t, w)
	path, bundle := w.npmSign(t, s)
	for _, c := range []struct{ why, identity, issuer, path string }{
		{"certificate identity error", "mallory@example.org", w.email.url, path},
		{"invalid certificate extension - expected issuer=", alice, w.github.url, path},
		{"signature verification failed", alice, w.email.url, s.write(t, "other", tampered())},
	} {
		s.mustFail(t, c.why, w.tools.node, w.npmArgs(t, s, w.npmVerify(s, c.path, bundle, map[string]any{
			"certificateIdentityEmail": c.identity, "certificateIssuer": c.issuer, "tlogThreshold": 0,
		}))...)
	}
}

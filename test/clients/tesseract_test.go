// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// tesseract is a running TesseraCT with storage in a folder.
type tesseract struct {
	url, files string // the submission prefix, and the monitoring prefix of static-ct-api
	keyFile    string // its public key, PEM
	id         [sha256.Size]byte
}

// startTesseraCT starts a log that accepts the CA's root. TesseraCT serves no reads: in production
// they go to the bucket, here to a file server.
func (w *world) startTesseraCT(t *testing.T, dir string) *tesseract {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, errPrivate := x509.MarshalECPrivateKey(key)
	public, errPublic := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if errPrivate != nil || errPublic != nil {
		t.Fatal(errPrivate, errPublic)
	}
	storage, address := filepath.Join(dir, "tesseract"), loopback(freePorts(t, 1)[0])
	p := start(t, "tesseract", serverEnv(dir), w.tools.tesseract,
		"-http_endpoint", address, "-origin", "log.example/2026", "-storage_dir", storage,
		"-private_key", writePEM(t, filepath.Join(dir, "tesseract.key"), "EC PRIVATE KEY", private),
		"-roots_pem_file", writePEM(t, filepath.Join(dir, "roots.pem"), "CERTIFICATE", w.ca[len(w.ca)-1].Raw),
		"-ext_key_usages", "CodeSigning", "-checkpoint_interval", "1s", "-batch_max_age", "50ms")
	p.awaitReady(t, http.DefaultClient, "http://"+address+"/healthz")
	files := httptest.NewServer(http.FileServer(http.Dir(storage)))
	t.Cleanup(files.Close)
	return &tesseract{
		url: "http://" + address, files: files.URL, id: sha256.Sum256(public),
		keyFile: writePEM(t, filepath.Join(dir, "tesseract.pub"), "PUBLIC KEY", public),
	}
}

// TestTesseraCT runs mayfly with a remote log of another implementation. cosign signs and verifies with the
// two documents that mayfly renders, and mayfly's own commands read the log.
func TestTesseraCT(t *testing.T) {
	t.Parallel()
	w := &world{tools: findTools(t), email: newIssuer(t), github: newIssuer(t), username: newIssuer(t)}
	dir := t.TempDir()
	tsa, rekor := w.startTSA(t, dir), w.startRekor(t, dir)
	ca := w.initCA(t, dir)
	log := w.startTesseraCT(t, dir)
	tlogs, err := transparencyLog(w.rekor, rekor)
	if err != nil {
		t.Fatal(err)
	}
	others, err := root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, []root.TimestampingAuthority{w.timestamps(tsa)}, tlogs)
	if err != nil {
		t.Fatal(err)
	}
	w.configure(t, dir, ca, log.url, log.keyFile, trustSetting(t, others))

	s := newSandbox(t)
	trusted := s.write(t, "trusted_root.json", fetch(t, http.DefaultClient, w.mayfly+"/trusted_root.json"))
	signing := s.write(t, "signing_config.json", fetch(t, http.DefaultClient, w.mayfly+"/signing_config.v0.2.json"))
	path, bundle := s.write(t, "blob", blob), s.write(t, "bundle.json", nil)
	s.mustRun(t, w.tools.cosign3, "sign-blob", "--yes", "--identity-token", w.aliceToken(t),
		"--trusted-root", trusted, "--signing-config", signing, "--bundle", bundle, path)
	verify := func(identity string) []string {
		return []string{"verify-blob", "--trusted-root", trusted, "--bundle", bundle,
			"--certificate-identity", identity, "--certificate-oidc-issuer", w.email.url, path}
	}
	s.mustRun(t, w.tools.cosign3, verify(alice)...)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3, verify("mallory@example.org")...)
	w.readsTesseraCT(t, s, log, bundle)
	checked := s.mustRun(t, w.tools.mayfly, "config", "check", "--online", filepath.Join(dir, "mayfly.yaml"))
	if !strings.Contains(string(checked), "serves no tree head at this URL") {
		t.Errorf("the check says nothing of the log's key, which it cannot verify: %s", checked)
	}

	// Without the key of the log, the same bundle does not verify.
	var other map[string]any
	if err := json.Unmarshal(fetch(t, http.DefaultClient, w.mayfly+"/trusted_root.json"), &other); err != nil {
		t.Fatal(err)
	}
	delete(other, "ctlogs")
	text, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	trusted = s.write(t, "no-log.json", text)
	s.mustFail(t, "only able to verify 0 SCT entries", w.tools.cosign3, verify(alice)...)
}

// readsTesseraCT checks what mayfly's commands show of the log and of the certificate in the bundle.
func (w *world) readsTesseraCT(t *testing.T, s *sandbox, log *tesseract, bundle string) {
	t.Helper()
	var shown struct {
		SerialNumber string
		SCTs         []struct{ LogID string } `json:"signedCertificateTimestamps"`
	}
	if err := json.Unmarshal(s.mustRun(t, w.tools.mayfly, "inspect", "-o", "json", bundle), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.SCTs) != 1 || shown.SCTs[0].LogID != hex.EncodeToString(log.id[:]) {
		t.Errorf("mayfly inspect shows the timestamps %v; one of the log %x is expected", shown.SCTs, log.id)
	}
	// The log has published the entry before it gave the SCT.
	found := s.mustRun(t, w.tools.mayfly, "ctlog", "search", "--url", log.files, "--public-key", log.keyFile,
		"--serial", shown.SerialNumber, "-o", "json", "--fail-empty")
	if !strings.Contains(string(found), alice) {
		t.Errorf("mayfly ctlog search lists %s, without %s", found, alice)
	}
	s.mustFail(t, "no verifiable signatures", w.tools.mayfly, "ctlog", "search", "--url", log.files, "--public-key", otherKey(t), "--identity", alice)
}

// otherKey returns the file of a public key that no log has.
func otherKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, filepath.Join(t.TempDir(), "other.pub"), "PUBLIC KEY", public)
}

// trustSetting is mayfly's setting for the timestamp authorities and signature logs of a trusted root.
func trustSetting(t *testing.T, trusted *root.TrustedRoot) string {
	t.Helper()
	text, err := trusted.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var entries struct{ TimestampAuthorities, TLogs json.RawMessage }
	if err := json.Unmarshal(text, &entries); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("trust: {timestamp_authorities: %s, tlogs: %s}\n", entries.TimestampAuthorities, entries.TLogs)
}

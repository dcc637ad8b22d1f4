// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
)

// TestDev does what a new user does: `mayfly dev` alone, with no other service except a registry to
// push to, and an unmodified cosign.
func TestDev(t *testing.T) {
	w := &world{tools: findTools(t)}
	w.startRegistry(t)
	d := startDev(t, w)
	short := startDev(t, w, "--certificate-lifetime", "1m")
	for _, c := range []struct {
		name string
		test func(*testing.T, *world, *dev)
		dev  *dev
	}{
		{"the lines that it prints can be pasted", devPasted, d},
		{"signs and verifies an image without a flag", devSignsImage, d},
		{"refuses an image of somebody else", devRefusesImage, d},
		{"a signature outlives its certificate", devSignatureLasts, short},
		{"a person signs in with a browser", devBrowser, d},
		{"a person signs in by a code", devCode, d},
		{"npm logs a dsse entry", devNPM, d},
		{"cosign takes the rendered trusted root and signing config", devDocuments, d},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, w, c.dev)
		})
	}
}

// you is the signer's address.
const you = "you@example.com"

// dev is a running `mayfly dev`.
type dev struct {
	url, issuer, tuf string
	lines            []string // the commands to paste
}

// startDev starts `mayfly dev` on a free port and waits until it reports that it is ready.
func startDev(t *testing.T, w *world, args ...string) *dev {
	t.Helper()
	p := start(t, "mayfly-dev", serverEnv(t.TempDir()), w.tools.mayfly, append([]string{"dev", "--listen", "127.0.0.1:0"}, args...)...)
	ready := regexp.MustCompile(`(?m)^ready: (http://[^/]+:[0-9]+)$`)
	text := p.awaitOutput(t, func(text string) bool { return ready.MatchString(text) && strings.Contains(text, "Ctrl-C") })
	url := ready.FindStringSubmatch(text)[1]
	d := &dev{url: url, issuer: url + "/dev/oidc", tuf: url + "/dev/tuf"}
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "  "); ok {
			d.lines = append(d.lines, strings.TrimSpace(command))
		}
	}
	return d
}

// awaitOutput returns the output of the process as soon as enough reports true.
func (p *process) awaitOutput(t *testing.T, enough func(string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text := string(p.output())
		if enough(text) {
			return text
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended too early:\n%s", p.name, p.output())
		case <-ctx.Done():
			t.Fatalf("%s did not say within %s what was awaited:\n%s", p.name, startLimit, text)
		case <-tick.C:
		}
	}
}

// initialized returns a sandbox in which cosign knows the world.
func (d *dev) initialized(t *testing.T, w *world) *sandbox {
	t.Helper()
	s := newSandbox(t)
	s.mustRun(t, w.tools.cosign3, "initialize", "--mirror", d.tuf, "--root", d.tuf+"/root.json")
	return s
}

// tokenFor gets a token as a script does, and stores it where cosign reads it.
func (d *dev) tokenFor(t *testing.T, w *world, s *sandbox, email string) {
	t.Helper()
	s.setenv("SIGSTORE_ID_TOKEN", trim(s.mustRun(t, w.tools.mayfly, "token", "--url", d.url, "--email", email)))
}

// identityFlags are the two flags that every verification needs.
func (d *dev) identityFlags(email string) []string {
	return []string{"--certificate-identity", email, "--certificate-oidc-issuer", d.issuer}
}

func devPasted(t *testing.T, w *world, d *dev) {
	s := newSandbox(t)
	s.setenv("PATH", filepath.Dir(w.tools.cosign3)+":"+filepath.Dir(w.tools.mayfly)+":"+os.Getenv("PATH"))
	s.setenv("IMAGE", w.pushImage(t, "pasted"))
	if len(d.lines) < 7 {
		t.Fatalf("there is too little to paste: %q", d.lines)
	}
	refused := func(line string) bool { return strings.Contains(line, "refused.pem") }
	s.mustRun(t, "sh", "-eux", "-c", strings.Join(slices.DeleteFunc(slices.Clone(d.lines), refused), "\n"))
	for _, line := range d.lines {
		if refused(line) {
			s.mustFail(t, "the CA refuses", "sh", "-c", line)
		}
	}
	var sum struct{ VerificationMaterial json.RawMessage }
	text, err := os.ReadFile(filepath.Join(s.dir, "hello.sigstore.json"))
	if err != nil || json.Unmarshal(text, &sum) != nil || len(sum.VerificationMaterial) == 0 {
		t.Errorf("no bundle came of it: %v, %s", err, text)
	}
	w.inspects(t, s, "hello.sigstore.json", "Signed  *sha256:"+helloDigest)
}

// helloDigest is the SHA-256 of what the pasted lines sign.
const helloDigest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"

// inspects reads with mayfly inspect what cosign has written.
func (w *world) inspects(t *testing.T, s *sandbox, name, signed string) {
	t.Helper()
	out := s.mustRun(t, w.tools.mayfly, "inspect", name)
	for _, want := range []string{"Identity  *" + you, "Signature  *application/vnd.dev.sigstore.bundle", signed, "Timestamp  *20", "Log entry  *entry [0-9]* of log "} {
		if !regexp.MustCompile("(?m)^" + want).Match(out) {
			t.Errorf("%q is missing in what mayfly inspect prints of %s:\n%s", want, name, out)
		}
	}
}

func devSignsImage(t *testing.T, w *world, d *dev) {
	s := d.initialized(t, w)
	image := w.pushImage(t, "dev")
	d.tokenFor(t, w, s, you)
	s.mustRun(t, w.tools.cosign3, "sign", "-y", image)
	out := s.mustRun(t, w.tools.cosign3, append(append([]string{"verify"}, d.identityFlags(you)...), image)...)
	if !strings.Contains(string(out), strings.SplitN(image, "@", 2)[1]) {
		t.Errorf("cosign verified something, but not %s: %s", image, out)
	}
	s.mustRun(t, w.tools.cosign3, "save", "--dir", "layout", image)
	w.inspects(t, s, "layout", "Signed  *"+strings.SplitN(image, "@", 2)[1])
}

func devRefusesImage(t *testing.T, w *world, d *dev) {
	s := d.initialized(t, w)
	image := w.pushImage(t, "dev-other")
	d.tokenFor(t, w, s, "mallory@example.com")
	s.mustRun(t, w.tools.cosign3, "sign", "-y", image)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3,
		append(append([]string{"verify"}, d.identityFlags(you)...), image)...)
}

// The shortest possible lifetime, and a verification after it: the timestamp decides.
func devSignatureLasts(t *testing.T, w *world, d *dev) {
	s := d.initialized(t, w)
	image := w.pushImage(t, "dev-late")
	path, file := s.write(t, "blob", blob), s.write(t, "bundle.json", nil)
	d.tokenFor(t, w, s, you)
	s.mustRun(t, w.tools.cosign3, "sign", "-y", image)
	s.mustRun(t, w.tools.cosign3, "sign-blob", "-y", "--bundle", file, path)
	leaf := leafOf(t, file)
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime != time.Minute {
		t.Fatalf("the certificate lasts %s", lifetime)
	}
	ended := time.NewTimer(time.Until(leaf.NotAfter) + time.Second)
	defer ended.Stop()
	select {
	case <-ended.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
	s.mustRun(t, w.tools.cosign3, append(append([]string{"verify"}, d.identityFlags(you)...), image)...)
	s.mustRun(t, w.tools.cosign3, append(append([]string{"verify-blob", "--bundle", file}, d.identityFlags(you)...), path)...)
}

func leafOf(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := bundle.LoadJSONFromPath(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := b.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	return content.Certificate()
}

// @sigstore/sign sends a DSSE envelope to a Rekor v2 log as a dsse entry. rekor-server no longer
// accepts it; a development world does.
func devNPM(t *testing.T, w *world, d *dev) {
	s := newNPM(t, w)
	config := s.write(t, "signing_config.json", fetch(t, http.DefaultClient, d.url+"/signing_config.v0.2.json"))
	root := s.write(t, "root.json", fetch(t, http.DefaultClient, d.tuf+"/root.json"))
	path := s.write(t, "statement.json", []byte(statement))
	token := trim(s.mustRun(t, w.tools.mayfly, "token", "--url", d.url))
	for _, kind := range []string{"dsseEnvelope", "messageSignature"} {
		out := s.mustRun(t, w.tools.node, w.npmArgs(t, s, npmRequest{
			"action": "build", "blob": path, "bundleType": kind, "type": "application/vnd.in-toto+json", "token": token, "signingConfig": config,
		})...)
		request := (&world{tuf: d.tuf, tufRoot: root}).npmVerify(s, path, s.write(t, "bundle.json", out), map[string]any{
			"certificateIdentityEmail": you, "certificateIssuer": d.issuer, "tlogThreshold": 1,
		})
		s.mustRun(t, w.tools.node, w.npmArgs(t, s, request)...)
	}
}

// Without TUF: the two documents as files.
func devDocuments(t *testing.T, w *world, d *dev) {
	s := newSandbox(t)
	root := s.write(t, "trusted_root.json", s.mustRun(t, w.tools.mayfly, "trusted-root", "--url", d.url))
	config := s.write(t, "signing_config.json", s.mustRun(t, w.tools.mayfly, "signing-config", "--url", d.url))
	path, file := s.write(t, "blob", blob), s.write(t, "bundle.json", nil)
	d.tokenFor(t, w, s, you)
	s.mustRun(t, w.tools.cosign3, "sign-blob", "-y", "--trusted-root", root, "--signing-config", config, "--bundle", file, path)
	s.mustRun(t, w.tools.cosign3, append([]string{"verify-blob", "--trusted-root", root, "--bundle", file, path}, d.identityFlags(you)...)...)
}

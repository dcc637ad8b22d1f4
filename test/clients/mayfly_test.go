// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The settings of mayfly, after its listeners: what an operator would write.
const mayflySettings = `
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {file: {chain: %s, key: %s, password_file: %s}}
ct: {logs: [{url: %q, public_key: %s}]}
log: {format: json, level: info}
`

// startMayfly creates a CA with `mayfly ca init` and serves it. The clients that are not installed here
// send what test/conformance sends.
func (w *world) startMayfly(t *testing.T, dir string) {
	t.Helper()
	ca := w.initCA(t, dir)
	w.log.AddRoot(w.ca[len(w.ca)-1])
	w.configure(t, dir, ca, w.log.url, w.log.keyFile, "")
}

// configure serves the CA with the log at logURL, and with further settings.
func (w *world) configure(t *testing.T, dir string, ca caFiles, logURL, logKey, more string) {
	t.Helper()
	issuers, err := os.ReadFile("testdata/issuers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("EMAIL", w.email.url, "GITHUB", w.github.url, "USERNAME", w.username.url).Replace(string(issuers))
	if err := os.WriteFile(filepath.Join(dir, "issuers.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 3)
	w.mayfly = "http://" + loopback(ports[0])
	w.serve(t, dir, fmt.Sprintf("listen: {http: %q, grpc: %q, ops: %q}", loopback(ports[0]), loopback(ports[1]), loopback(ports[2]))+
		fmt.Sprintf(mayflySettings, ca.chain, ca.key, ca.password, logURL, logKey)+fmt.Sprintf("public_url: %q\n", w.mayfly)+more)
}

// serve starts `mayfly serve` and waits until it reports that it is ready, including issuers. At
// the end of the test it requires a clean stop, and a log without a token: no header or payload of
// a JWT, which all have the same beginning.
func (w *world) serve(t *testing.T, dir, config string) {
	t.Helper()
	const name = "mayfly"
	path := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, name, serverEnv(dir), w.tools.mayfly, "serve", "--config", path)
	t.Cleanup(func() {
		p.stop(t)
		if p.err != nil {
			t.Errorf("%s ended with %v", name, p.err)
		}
		log, err := os.ReadFile(p.log)
		if err != nil || bytes.Contains(log, []byte("eyJ")) {
			t.Errorf("an ID token, or a part of one, is in the log of %s, or there is none: %v", name, err)
		}
	})
	p.awaitReady(t, http.DefaultClient, w.mayfly+"/readyz")
}

// caFiles are the paths of the files that `mayfly ca init` has created.
type caFiles struct{ chain, key, password string }

// initCA creates the CA.
func (w *world) initCA(t *testing.T, dir string) caFiles {
	t.Helper()
	ca := filepath.Join(dir, "ca")
	newSandbox(t).mustRun(t, w.tools.mayfly, "ca", "init", ca)
	chains, err := filepath.Glob(filepath.Join(ca, "*", "chain.pem")) // the year is in the name of the authority's folder
	if err != nil || len(chains) != 1 {
		t.Fatalf("mayfly ca init has made the chains %v, %v", chains, err)
	}
	authority := filepath.Dir(chains[0])
	files := caFiles{
		chain:    chains[0],
		key:      filepath.Join(authority, "key.pem"),
		password: filepath.Join(authority, "pass"),
	}
	text, err := os.ReadFile(files.chain)
	if err != nil {
		t.Fatal(err)
	}
	w.ca, w.caChain = parseCertificates(t, text), files.chain
	return files
}

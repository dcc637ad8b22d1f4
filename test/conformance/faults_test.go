// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// TestDiscovery answers discovery in ways that must not work, and in some that must.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	base := "http://" + server.Listener.Addr().String()
	p := must(provider.New(provider.Config{IssuerURL: base + "/x", Algorithm: "RS256"}))
	key := p.SigningKey()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, `{"issuer":%q,"jwks_uri":%q}`, base+"/redirect", base+"/x/keys")
	}))
	t.Cleanup(elsewhere.Close)
	doc := func(name, keys, more string) string {
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q%s}`, base+"/"+name, keys, more)
	}
	good := base + "/x/keys"
	docs := map[string]struct{ text, want string }{
		"plain":       {doc("plain", good, ""), ""},
		"algs":        {doc("algs", good, `,"id_token_signing_alg_values_supported":["HS256","none","RS256"]`), ""},
		"noalgs":      {doc("noalgs", good, `,"id_token_signing_alg_values_supported":[]`), ""},
		"wrongalgs":   {doc("wrongalgs", good, `,"id_token_signing_alg_values_supported":["ES256"]`), "401 SIGNATURE_INVALID"},
		"otherissuer": {doc("other", good, ""), "503 ISSUER_UNREACHABLE"},
		"slashissuer": {doc("slashissuer/", good, ""), "503 ISSUER_UNREACHABLE"},
		"noissuer":    {fmt.Sprintf(`{"jwks_uri":%q}`, good), "503 ISSUER_UNREACHABLE"},
		"nokeys":      {doc("nokeys", base+"/nothing", ""), "503 ISSUER_UNREACHABLE"},
		"filekeys":    {doc("filekeys", "file:///etc/passwd", ""), "503 ISSUER_UNREACHABLE"},
		"html":        {"<html>", "503 ISSUER_UNREACHABLE"},
		"huge":        {doc("huge", good, `,"pad":"`+strings.Repeat("p", 4<<20)+`"`), "503 ISSUER_UNREACHABLE"},
		"redirect":    {"", "503 ISSUER_UNREACHABLE"},
		"hang":        {"", "503 ISSUER_UNREACHABLE"},
		"error":       {"", "503 ISSUER_UNREACHABLE"},
		"missing":     {"", "503 ISSUER_UNREACHABLE"},
	}
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/.well-known/openid-configuration")
		switch d, ok := docs[name]; {
		case name == "redirect":
			http.Redirect(rw, r, elsewhere.URL, http.StatusFound)
		case name == "hang":
			<-r.Context().Done()
		case name == "error":
			rw.WriteHeader(500)
		case ok && d.text != "":
			_, _ = rw.Write([]byte(d.text))
		default:
			p.ServeHTTP(rw, r)
		}
	})
	server.Start()
	t.Cleanup(server.CloseClientConnections)
	var file strings.Builder
	file.WriteString("oidc-issuers:\n")
	for name := range docs {
		fmt.Fprintf(&file, "  %[1]s/%[2]s: {issuer-url: %[1]s/%[2]s, client-id: sigstore, type: email}\n", base, name)
	}
	c := start(t, "discovery", file.String(), "ct: {disabled: true}\n")
	for name, tt := range docs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ck := newKey()
			payload := email.with("iss", quoted(base+"/"+name)).payload("email")
			g := c.do(t, restV2, ask{token: jws(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, key.KeyID), payload, key), publicKey: publicPEM(ck.Public()), proof: sign(ck, person)})
			if tt.want != "" {
				g.refused(t, tt.want)
				return
			}
			g.certificate(t, c, ck.Public(), base+"/"+name, "subject", personName)
		})
	}
}

// start runs one more mayfly serve.
func start(t *testing.T, name, issuers, ct string) *ca {
	t.Helper()
	cmd, c := command(t, name, issuers, ct)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); <-done })
	if err := c.ready(done); err != nil {
		t.Fatal(err)
	}
	return c
}

func command(t *testing.T, name, issuers, ct string) (*exec.Cmd, *ca) {
	t.Helper()
	p := freePorts(3)
	file := filepath.Join(w.dir, name+".yaml")
	text := fmt.Sprintf("listen: {http: %s, grpc: %s, ops: %s}\nissuers: %s-issuers.yaml\n%s%s", p[0], p[1], p[2], name, w.config, ct)
	for file, text := range map[string]string{file: text, filepath.Join(w.dir, name+"-issuers.yaml"): issuers} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Not before the test starts: its parallel subtests may wait long for their turn.
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := serveCommand(ctx, file)
	return cmd, &ca{name: name, rest: p[0], grpc: p[1]}
}

// TestLogFaults makes the one log fail: no certificate without a verified SCT, and a 503 before
// the client gives up.
func TestLogFaults(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"down": testlog.Down(500), "refuses": testlog.Down(400), "forbids": testlog.Down(403), "gone": testlog.Down(404), "busy": testlog.Down(429), "unavailable": testlog.Down(503), "hangs": testlog.Hang,
		"empty":   func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(200); return true },
		"garbage": func(rw http.ResponseWriter, _ *http.Request) bool { _, _ = rw.Write([]byte("<html>")); return true },
		"null SCT": func(rw http.ResponseWriter, _ *http.Request) bool {
			_, _ = rw.Write([]byte(`{"sct_version":0,"id":"","timestamp":0,"extensions":"","signature":""}`))
			return true
		},
		"endless": func(rw http.ResponseWriter, r *http.Request) bool {
			for range 1000 {
				if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
					return true
				}
			}
			return true
		},
		"redirects": func(rw http.ResponseWriter, r *http.Request) bool {
			http.Redirect(rw, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := must(testlog.New(testlog.Config{Roots: w.chain[1:]}))
			server := httptest.NewServer(l)
			defer server.CloseClientConnections()
			l.Fail(fail)
			file := "f" + strings.ReplaceAll(name, " ", "")
			if err := os.WriteFile(filepath.Join(w.dir, file+".pub"), l.PublicKeyPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			c := start(t, file, fmt.Sprintf("oidc-issuers:\n  %[1]s/email: {issuer-url: %[1]s/email, client-id: sigstore, type: email}\n", w.base), fmt.Sprintf("ct: {logs: [{url: %s, public_key: %s.pub}]}\n", server.URL, file))
			key := newKey()
			a := ask{token: mint("email", email.payload("email")), publicKey: publicPEM(key.Public()), proof: sign(key, person)}
			g := c.do(t, restV2, a)
			g.refused(t, "503 CT_UNAVAILABLE")
			if strings.Contains(g.body, "CERTIFICATE") {
				t.Error("a certificate is in the answer")
			}
			l.Fail(nil)
			c.sct = false // another log than the world's: checkSCT does not apply
			for deadline := time.Now().Add(patience); g.http != 201; <-time.After(100 * time.Millisecond) {
				if g = c.do(t, restV1, a); time.Now().After(deadline) {
					g.refused(t, "201")
					return
				}
			}
		})
	}
}

// TestStartRefused lists what must stop the start.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	files := must(txtar.ParseFile("testdata/refused.txtar")).Files
	if len(files) < 30 {
		t.Errorf("there are %d files only", len(files))
	}
	for _, file := range files {
		name, issuers := file.Name, string(file.Data)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, _ := command(t, "r"+strings.NewReplacer(" ", "", ",", "").Replace(name), issuers, "ct: {disabled: true}\n")
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() <= 0 || err == nil {
				t.Errorf("started: %v %s", err, out)
			}
			if !strings.Contains(string(out), "-issuers.yaml") {
				t.Errorf("the file is not named: %s", out)
			}
		})
	}
	const good = "oidc-issuers:\n  https://i.example.com: {issuer-url: https://i.example.com, client-id: sigstore, type: uri, subject-domain: 'https://sub.example.com:8443'}\n"
	start(t, "peersfile", string(must(os.ReadFile("testdata/compat.yaml"))), "compat: true\nct: {disabled: true}\n")
	start(t, "goodstart", good, "ct: {disabled: true}\n")
	cmd, _ := command(t, "noct", good, "")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "noct.yaml") {
		t.Errorf("without ct: %v %s", err, out)
	}
}

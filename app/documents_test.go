// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// The documents of a server and of its configuration are the same bytes, for ca.file and for
// ca.set. They follow the issuers and the set while the server runs.
func TestDocuments(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, dir, settings string) string{
		"ca.file": func(_ *testing.T, _, settings string) string { return settings },
		"ca.set": func(t *testing.T, dir, settings string) string {
			before, rest, _ := strings.Cut(settings, "ca:\n  file: {")
			_, after, ok := strings.Cut(rest, "}\n")
			if !ok {
				t.Fatalf("the settings are not what this test knows: %s", settings)
			}
			return before + "ca: {set: ca/ca.yaml}\n" + after
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			settings := string(must(os.ReadFile(w.ConfigFile))(t))
			write(t, w, "mayfly.yaml", change(t, w.Dir, settings)+"public_url: https://ca.example\n")
			address := serve(t, w)
			instance := must(app.LoadInstance(app.Options{ConfigFile: w.ConfigFile}))(t)
			for path, render := range map[string]func() ([]byte, error){
				"/trusted_root.json": instance.TrustedRoot, "/signing_config.v0.2.json": instance.SigningConfig,
			} {
				response := must(http.Get("http://" + address + path))(t)
				got := must(io.ReadAll(response.Body))(t)
				_ = response.Body.Close()
				if want := must(render())(t); response.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
					t.Errorf("%s: %s serves\n%s\nwant\n%s", path, response.Status, got, want)
				}
			}
			if len(instance.Authorities) != 1 || !instance.Authorities[0].Chain[1].Equal(w.Root) {
				t.Errorf("the authorities are %v", instance.Authorities)
			}
			if len(instance.CTLogs) != 1 || instance.CTLogs[0].URL != w.LogURL {
				t.Errorf("the logs are %v", instance.CTLogs)
			}
			if len(instance.Providers) != 1 || instance.Providers[0] != w.Provider.IssuerURL() {
				t.Errorf("people sign in at %v", instance.Providers)
			}
		})
	}
}

// trust: is copied unchanged, and only providers for people are offered to sign in.
func TestDocumentsTakeTrustOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	settings := string(must(os.ReadFile(w.ConfigFile))(t))
	write(t, w, "mayfly.yaml", settings+`public_url: https://ca.example
trust: {tlogs: [{baseUrl: "https://rekor.example", publicKey: {}, unknown: [1, 2.50]}]}
`)
	issuers := string(must(os.ReadFile(filepath.Join(w.Dir, "issuers.yaml")))(t))
	write(t, w, "issuers.yaml", issuers+`  https://other.example:
    issuer-url: https://other.example
    client-id: not-sigstore
    type: email
    allowed-email-domains: [example.com]
  https://ci.example:
    issuer-url: https://ci.example
    client-id: sigstore
    type: uri
    subject-domain: https://ci.example
`)
	instance := must(app.LoadInstance(app.Options{ConfigFile: w.ConfigFile}))(t)
	if len(instance.Providers) != 1 {
		t.Errorf("people sign in at %v", instance.Providers)
	}
	var root struct{ TLogs []map[string]any }
	if err := json.Unmarshal(must(instance.TrustedRoot())(t), &root); err != nil || len(root.TLogs) != 1 || root.TLogs[0]["unknown"] == nil {
		t.Errorf("the log is %v, %v", root.TLogs, err)
	}
	if config := must(instance.SigningConfig())(t); !bytes.Contains(config, []byte(`"url": "https://rekor.example"`)) {
		t.Errorf("signers do not go to the log: %s", config)
	}
}

// A server without a configured public URL cannot publish it.
func TestDocumentsNeedAPublicURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := app.LoadInstance(app.Options{ConfigFile: w.ConfigFile}); !errors.Is(err, trustroot.ErrNotRendered) || !strings.Contains(err.Error(), w.ConfigFile) {
		t.Errorf("got %v", err)
	}
	response := must(http.Get("http://" + serve(t, w) + "/trusted_root.json"))(t)
	defer response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("it is served all the same: %s", response.Status)
	}
}

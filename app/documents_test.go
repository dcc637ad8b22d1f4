// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// The documents of a server and of its configuration are the same bytes, for ca.file and for ca.set.
// trust: is copied unchanged, and only providers for people are offered to sign in.
func TestDocuments(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]step{"ca.file": nothing, "ca.set": withSet} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, change, setting(`public_url: https://ca.example
trust: {tlogs: [{baseUrl: "https://rekor.example", publicKey: {}, unknown: [1, 2.50]}]}`),
				rewritten("issuers.yaml", func(text string) string {
					return text + `  https://other.example: {issuer-url: https://other.example, client-id: not-sigstore, type: email, allowed-email-domains: [example.com]}
  https://ci.example: {issuer-url: https://ci.example, client-id: sigstore, type: uri, subject-domain: https://ci.example}
`
				}))
			r := start(t, w)
			instance := must(app.LoadInstance(app.Options{ConfigFile: w.ConfigFile}))(t)
			root, config := must(instance.TrustedRoot())(t), must(instance.SigningConfig())(t)
			for path, want := range map[string][]byte{"/trusted_root.json": root, "/signing_config.v0.2.json": config} {
				if got := fetch(t, r.rest+path); got != string(want) {
					t.Errorf("%s is\n%s\nwant\n%s", path, got, want)
				}
			}
			if len(instance.Authorities) != 1 || !instance.Authorities[0].Chain[1].Equal(w.Root) || len(instance.CTLogs) != 1 || instance.CTLogs[0].URL != w.LogURL ||
				len(instance.Providers) != 1 || instance.Providers[0] != w.Provider.IssuerURL() {
				t.Errorf("the instance is %+v", instance)
			}
			var trusted struct{ TLogs []map[string]any }
			if err := json.Unmarshal(root, &trusted); err != nil || len(trusted.TLogs) != 1 || trusted.TLogs[0]["unknown"] == nil || !bytes.Contains(config, []byte(`"url": "https://rekor.example"`)) {
				t.Errorf("the log is %v, %v", trusted.TLogs, err)
			}
		})
	}
}

// A server without a configured public URL cannot publish it.
func TestDocumentsNeedAPublicURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := app.LoadInstance(app.Options{ConfigFile: w.ConfigFile}); !errors.Is(err, trustroot.ErrNotRendered) || !strings.Contains(err.Error(), w.ConfigFile) {
		t.Errorf("got %v", err)
	}
	if body := fetch(t, start(t, w).rest+"/trusted_root.json"); !strings.Contains(body, "NOT_FOUND") {
		t.Errorf("it is served all the same: %s", body)
	}
}

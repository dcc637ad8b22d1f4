// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// A service that fails does so as in production, and the others work.
func TestServicesFailOnRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail              []string
		reason            string // of the CA's refusal; "" for a certificate
		tsa, rekor, ctSTH int
		readiness         int
	}{
		"none":      {nil, "", 201, 200, 200, 200},
		"ct":        {[]string{"ct"}, "CT_UNAVAILABLE", 201, 200, 404, 200},
		"authority": {[]string{"authority"}, "SIGNER_UNAVAILABLE", 201, 200, 200, 503},
		"issuer":    {[]string{"issuer"}, "ISSUER_UNREACHABLE", 201, 200, 200, 200},
		"tsa":       {[]string{"tsa"}, "", 503, 200, 200, 200},
		"rekor":     {[]string{"rekor"}, "", 201, 503, 200, 200},
		"several":   {[]string{"tsa", "rekor", "ct"}, "CT_UNAVAILABLE", 503, 503, 404, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := run(t, Config{Fail: test.fail})
			_, err := certify(t, w, get(t, w.URL()+"/dev/token?as=github", http.StatusOK))
			if test.reason == "" && err != nil || test.reason != "" && (err == nil || !strings.Contains(err.Error(), test.reason)) {
				t.Errorf("%v, want %q", err, test.reason)
			}
			body := bytes.NewReader([]byte(`{"artifactHash":"` + strings.Repeat("A", 43) + `=","hashAlgorithm":"sha256"}`))
			response, err := http.Post(w.TimestampURL(), "application/json", body)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != test.tsa {
				t.Errorf("the timestamp authority answers %s, want %d", response.Status, test.tsa)
			}
			get(t, w.RekorURL()+"/api/v2/checkpoint", test.rekor)
			get(t, w.URL()+"/ctlog/dev/ct/v1/get-sth", test.ctSTH)
			get(t, w.URL()+"/readyz", test.readiness)
			// Verifiers trust the log's key all the same: earlier certificates stay valid.
			if root, err := w.TrustedRoot(); err != nil || !bytes.Contains(root, []byte(`"ctlogs"`)) {
				t.Errorf("%s, %v", root, err)
			}
		})
	}
	if w, err := New(t.Context(), Config{Listen: "127.0.0.1:0", Fail: []string{"ctlog"}}); err == nil {
		t.Error("an unknown service fails", w.Close(t.Context()))
	}
}

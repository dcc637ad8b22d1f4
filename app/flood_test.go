// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// ask posts a request without a key, which its token decides, as a proxy does for a client.
func (r *running) ask(t *testing.T, client, token string) (reason string, header http.Header) {
	t.Helper()
	body := fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q}}`, token)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.rest+"/api/v2/signingCert", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return "", nil
	}
	request.Header.Set("X-Forwarded-For", client)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	defer response.Body.Close()
	var answer struct {
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Error(err)
	}
	for _, detail := range answer.Details {
		reason += detail.Reason
	}
	return reason, response.Header
}

// TestFloodOfOneClient: behind a trusted proxy, one client names unknown and hanging issuers, and
// forges the addresses to the left of its own. It receives RATE_LIMITED. The first token of a new
// issuer of another client passes at once. Behind a proxy that is not configured, all clients count
// as one, and the answer is OVERLOADED.
func TestFloodOfOneClient(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		t.Run(fmt.Sprintf("trusted %t", trusted), func(t *testing.T) {
			t.Parallel()
			var real atomic.Pointer[provider.Provider]
			issuers := newBadIssuer(t, func(rw http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasPrefix(r.URL.Path, "/hangs"):
					<-r.Context().Done()
				case strings.HasPrefix(r.URL.Path, "/real"):
					real.Load().ServeHTTP(rw, r)
				default:
					http.NotFound(rw, r)
				}
			})
			good, err := provider.New(provider.Config{IssuerURL: issuers.URL + "/real", Algorithm: "ES256"})
			if err != nil {
				t.Fatal(err)
			}
			real.Store(good)
			r := start(t, func(w *testworld.World) {
				edit(t, w, "issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("meta-issuers:\n  \"%s/*\": {client-id: sigstore, type: email}\noidc-issuers:\n", issuers.URL))
				if trusted {
					replace(t, w.ConfigFile, "issuers: issuers.yaml", "issuers: issuers.yaml\ntrusted_proxies: [127.0.0.1]")
				}
			})
			token := func(name string, i int) string {
				p, err := provider.New(provider.Config{IssuerURL: fmt.Sprintf("%s/%s-%d", issuers.URL, name, i), Algorithm: "ES256"})
				if err != nil {
					t.Error(err)
					return ""
				}
				return mintEmail(t, p)
			}
			reasons := map[string]int{}
			var mu sync.Mutex
			var flood sync.WaitGroup
			const hanging, requests = 40, 200
			send := func(name string, i int) {
				raw := token(name, i)
				flood.Go(func() {
					reason, header := r.ask(t, fmt.Sprintf("192.0.2.%d, 203.0.113.1", i), raw)
					mu.Lock()
					defer mu.Unlock()
					reasons[reason]++
					if header.Get("Retry-After") == "" {
						t.Errorf("%s without Retry-After", reason)
					}
				})
			}
			for i := range hanging {
				send("hangs", i)
			}
			await(t, "one client has its 16 places for lookups", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return reasons["RATE_LIMITED"]+reasons["OVERLOADED"] >= hanging-16
			})
			for i := range requests - hanging {
				send("made-up", i)
			}
			reason, _ := r.ask(t, "192.0.2.1, 198.51.100.1", mintEmail(t, good))
			if trusted && reason != "KEY_UNSUPPORTED" {
				t.Errorf("the token of a new issuer of another client: %s", reason)
			}
			flood.Wait()
			limited, other := "RATE_LIMITED", "OVERLOADED"
			if !trusted {
				limited, other = other, limited
			}
			if reasons[limited] == 0 || reasons[other] > 0 || reasons[limited]+reasons["ISSUER_UNREACHABLE"] != requests {
				t.Errorf("the flood got %v", reasons)
			}
		})
	}
}

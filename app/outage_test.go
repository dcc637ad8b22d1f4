// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// The operator sees the outages of a log and of an issuer, and clients of the others do not. Details that
// are not public are on ops alone. Package ctlog tests how a log recovers.
func TestServeThroughAnOutageOfLogs(t *testing.T) {
	t.Parallel()
	first := must(testlog.New(testlog.Config{}))(t)
	first.Fail(testlog.Down(http.StatusInternalServerError))
	down, failing := httptest.NewServer(first), httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(down.Close)
	t.Cleanup(failing.Close)
	r := start(t, newWorld(t, written("first.pub", string(first.PublicKeyPEM())),
		edited("mayfly.yaml", "  logs:\n", "  logs:\n    - {url: "+down.URL+", public_key: first.pub}\n"),
		edited("issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", failing.URL))))
	for range 6 {
		r.certify(t)
	}
	good := r.Provider.IssuerURL()
	for _, pattern := range []string{
		`mayfly_ct_breaker_state\{log="` + down.URL + `",state="open"\} 1`,
		`mayfly_ct_breaker_state\{log="` + r.LogURL + `",state="closed"\} 1`,
		`mayfly_oidc_issuer_state\{entry="` + failing.URL + `",state="failing"\} 1`,
		`mayfly_oidc_issuer_last_success_timestamp_seconds\{entry="` + good + `"\} 1\.\d+e\+09`,
		`mayfly_oidc_issuer_last_success_timestamp_seconds\{entry="` + failing.URL + `"\} 0`,
		`mayfly_oidc_issuer_key_age_seconds\{entry="` + good + `"\} \d`,
		`mayfly_oidc_fetch_duration_seconds_count\{document="keys",entry="` + good + `"\} 1`,
		`mayfly_oidc_fetches_total\{document="discovery",entry="` + failing.URL + `",result="error"\} \d`,
	} {
		await(t, pattern, func() bool { return regexp.MustCompile(pattern).MatchString(fetch(t, r.ops+"/metrics")) })
	}
	await(t, "a report that is younger than the states", func() bool {
		return strings.Contains(fetch(t, r.ops+"/readyz?verbose"), failing.URL+": failing")
	})
	public, ops := fetch(t, r.rest+"/readyz?verbose"), fetch(t, r.ops+"/readyz?verbose")
	for _, state := range []string{`"status":"SERVING"`, down.URL + ": breaker open", failing.URL + ": failing, no keys yet", good + ": ok, keys "} {
		if !strings.Contains(public, state) {
			t.Errorf("%q is not in public:\n%s", state, public)
		}
	}
	for _, cause := range []string{"answered 500", "openid-configuration"} {
		if strings.Contains(public, cause) || !strings.Contains(ops, cause) {
			t.Errorf("%q is not for the operator alone: in public:\n%s\nfor the operator:\n%s", cause, public, ops)
		}
	}
	p := must(provider.New(provider.Config{IssuerURL: failing.URL, Algorithm: "ES256"}))(t)
	if reason, header := r.ask(t, "192.0.2.1", mintEmail(t, p)); reason != "ISSUER_UNREACHABLE" || header.Get("Retry-After") == "" {
		t.Errorf("%s, %v", reason, header)
	}
	r.Log.Fail(testlog.Down(http.StatusInternalServerError))
	wantReason(t, r, nil, "CT_UNAVAILABLE")
	if public := fetch(t, r.rest+"/readyz?verbose"); !strings.Contains(public, `"status":"SERVING"`) {
		t.Errorf("only the next certificate can close a breaker, and the server is not ready: %s", public)
	}
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
			released := make(chan struct{})
			issuers := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasPrefix(r.URL.Path, "/hangs"):
					<-released
				case strings.HasPrefix(r.URL.Path, "/real"):
					real.Load().ServeHTTP(rw, r)
				default:
					http.NotFound(rw, r)
				}
			}))
			t.Cleanup(issuers.Close)
			newProvider := func(name string) *provider.Provider {
				return must(provider.New(provider.Config{IssuerURL: issuers.URL + "/" + name, Algorithm: "ES256"}))(t)
			}
			real.Store(newProvider("real"))
			w := newWorld(t, edited("issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("meta-issuers:\n  \"%s/*\": {client-id: sigstore, type: email}\noidc-issuers:\n", issuers.URL)))
			if trusted {
				setting("trusted_proxies: [127.0.0.1]")(t, w)
			}
			r := start(t, w)
			reasons := map[string]int{}
			var mu sync.Mutex
			var flood sync.WaitGroup
			const hanging, requests = 40, 200
			send := func(name string, i int) {
				token := mintEmail(t, newProvider(fmt.Sprintf("%s-%d", name, i)))
				flood.Go(func() {
					reason, header := r.ask(t, fmt.Sprintf("192.0.2.%d, 203.0.113.1", i), token)
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
			reason, _ := r.ask(t, "192.0.2.1, 198.51.100.1", mintEmail(t, real.Load()))
			if trusted && reason != "KEY_UNSUPPORTED" {
				t.Errorf("the token of a new issuer of another client: %s", reason)
			}
			close(released)
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

// A second replica of the same CA submits to the embedded log of the first, which takes no
// submission without its token.
func TestReplicaSubmitsToAnothersEmbeddedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, written("log.token", "a-token-of-32-characters-for-logs\n"), written("other.token", "another-token-that-is-not-the-logs"))
	written("embedded.pub", string(initLog(t, w)))(t, w)
	serve := func(entry string) string {
		edited("mayfly.yaml", remoteEntry(w), entry)(t, w)
		r := start(t, w)
		edited("mayfly.yaml", entry, remoteEntry(w))(t, w)
		return r.rest
	}
	first := serve(strings.Replace(embeddedLog, "}}", ", submit: {token_file: log.token}}}", 1))
	replica := func(token string) string {
		return serve(`{url: "` + first + `/ctlog/2026", public_key: embedded.pub, token_file: ` + token + `}`)
	}
	for url, reason := range map[string]string{first: "", replica("log.token"): "", replica("other.token"): "CT_UNAVAILABLE"} {
		wantReason(t, &running{World: w, rest: url}, nil, reason)
	}
	if body := fetch(t, first+"/ctlog/2026/checkpoint"); !strings.HasPrefix(body, "log.example/2026\n") {
		t.Errorf("the checkpoint is %q", body)
	}
}

// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/test/testlog"
)

// What docs/discovery.md promises: the longest pause between two attempts at an issuer that cannot be read,
// and the longest time until a new key is read.
const (
	issuerBound = 30 * time.Second
	newKeyBound = 35 * time.Second
)

// TestIssuers gives each fault to an issuer before the server has its keys, then when it has them, and then
// while the issuer signs with a new key. The tokens of the other issuer are never refused.
func TestIssuers(t *testing.T) {
	t.Parallel()
	elsewhere := http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound)
	for name, fault := range map[string]http.Handler{
		"500":         status(http.StatusInternalServerError),
		"hangs":       http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { testlog.Hang(w, r) }),
		"huge":        http.HandlerFunc(huge),
		"redirecting": elsewhere,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			w.become(func(s *state) { s.flaky, s.keyless = false, true })
			w.issuer.use(fault)
			w.start()
			w.line("issuer without keys: %s", name)
			w.load()
			w.refused("ISSUER_UNREACHABLE")
			w.recover(issuerBound, func(s *state) { s.flaky, s.keyless = true, false }, func() { w.issuer.use(w.flaky) })
			w.steady()
			w.line("issuer with keys: %s", name)
			w.become(func(s *state) { s.flaky = false })
			w.issuer.use(fault)
			if full() { // keys are read again after 8 s
				w.asked(&w.issuer.calls)
			}
			w.steady()
			if full() {
				w.line("issuer with a new key: %s", name)
				w.become(func(s *state) { s.keyless = true })
				w.rotate()
				w.refused("ISSUER_UNREACHABLE")
				w.recover(newKeyBound, func(s *state) { s.flaky, s.keyless = true, false }, func() { w.issuer.use(w.flaky) })
				w.steady()
			}
			w.judge(nil)
		})
	}
}

// TestRotatingIssuer: the first token of a new key passes at once, also for the second key in a short time.
// More new keys are read within the time that docs/discovery.md states.
func TestRotatingIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start()
	w.load()
	w.line("issuer rotates its key")
	w.steady()
	w.rotate()
	w.steady()
	if full() {
		w.line("issuer rotates its key a second and a third time within a minute")
		for range 2 {
			// Keys that were read less than 5 s ago decide (docs/discovery.md): a newer one is not looked for.
			<-time.After(6 * time.Second)
			w.become(func(s *state) { s.keyless, s.flaky = true, false })
			w.recover(newKeyBound, func(s *state) { s.keyless, s.flaky = false, true }, w.rotate)
			w.steady()
		}
	}
	w.judge(nil)
}

// rotate makes the flaky issuer sign with a new key.
func (w *world) rotate() {
	w.t.Helper()
	must(w.flaky.Rotate())(w.t)
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

// huge writes a document of 64 MiB.
func huge(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	block := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

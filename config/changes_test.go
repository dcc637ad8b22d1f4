// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Changes names every key that differs, of any kind, in effect and not in writing.
func TestChanges(t *testing.T) {
	t.Parallel()
	const rest = "issuers: i\ncertificate: {lifetime: 10m}\n"
	read := func(text string) *Server {
		s, _, err := ParseServer("m", []byte(rest+text), []string{"MAYFLY_LOG_LEVEL=debug"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	old := read(`ca: {file: {chain: c, key: k}}
ct: {disabled: true}
keys: {algorithms: [rsa-2048]}
log: {level: warn}
`)
	next := read(`ca: {set: s}
ct: {logs: [{url: "https://log.example", public_key: p, activate_at: 2026-11-01T00:00:00Z}, {embedded: {name: n, dir: d, guard: g, key: k, origin: o}}]}
keys: {algorithms: [rsa-2048, ed25519]}
listen: {http: 127.0.0.1:5555, ops: "127.0.0.1:1"}
oidc: {proxy: "https://secret@proxy.example"}
trusted_proxies: [10.0.0.0/8]
trust: {tlogs: [{baseUrl: "https://` + strings.Repeat("x", 200) + `"}]}
log: {level: error}
limits: {idle: 20m}
`)
	want := []string{
		"listen.ops: 127.0.0.1:2112 → 127.0.0.1:1",
		"trusted_proxies: none → [10.0.0.0/8]",
		"oidc.proxy: none → (secret)",
		"ca.file.chain: c → none", "ca.file.key: k → none", "ca.set: none → s",
		"keys.algorithms: [rsa-2048] → [rsa-2048 ed25519]",
		"ct.disabled: true → false",
		"ct.logs.0.url: none → https://log.example", "ct.logs.0.public_key: none → p", "ct.logs.0.activate_at: none → 2026-11-01T00:00:00Z",
		"ct.logs.1.embedded.name: none → n", "ct.logs.1.embedded.dir: none → d", "ct.logs.1.embedded.guard: none → g", "ct.logs.1.embedded.key: none → k",
		"ct.logs.1.embedded.origin: none → o", "ct.logs.1.embedded.batch_age: 0s → 10ms", "ct.logs.1.embedded.checkpoint_interval: 0s → 1s",
		`trust.tlogs: none → [{"baseUrl":"https://` + strings.Repeat("x", 100-len(`[{"baseUrl":"https://`)) + "…",
		"limits.idle: 10m50s → 20m0s",
	}
	if diff := cmp.Diff(want, old.Changes(next)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if same := old.Changes(read("log: {level: info}\nct: {disabled: true}\nkeys: {algorithms: [rsa-2048]}\nca: {file: {key: k, chain: c}}\n")); same != nil {
		t.Errorf("no key has another value in effect, and the changes are %v", same)
	}
}

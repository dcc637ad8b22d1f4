// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"regexp"
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
		"ca.file.chain: c → none", "ca.file.key: k → none", "ca.set: none → s",
		"ct.disabled: true → false",
		"ct.logs.0.activate_at: none → 2026-11-01T00:00:00Z", "ct.logs.0.public_key: none → p", "ct.logs.0.url: none → https://log.example",
		"ct.logs.1.embedded.batch_age: none → 10ms", "ct.logs.1.embedded.checkpoint_interval: none → 1s", "ct.logs.1.embedded.dir: none → d",
		"ct.logs.1.embedded.guard: none → g", "ct.logs.1.embedded.key: none → k", "ct.logs.1.embedded.name: none → n", "ct.logs.1.embedded.origin: none → o",
		"keys.algorithms: [rsa-2048] → [rsa-2048 ed25519]",
		"limits.idle: 10m50s → 20m0s",
		"listen.ops: 127.0.0.1:2112 → 127.0.0.1:1",
		"oidc.proxy: none → (secret)",
		`trust.tlogs: none → [{"baseUrl":"https://` + strings.Repeat("x", 100-len(`[{"baseUrl":"https://`)) + "…",
		"trusted_proxies: none → [10.0.0.0/8]",
	}
	if diff := cmp.Diff(want, old.Changes(next)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if same := old.Changes(read("log: {level: info}\nct: {disabled: true}\nkeys: {algorithms: [rsa-2048]}\nca: {file: {key: k, chain: c}}\n")); same != nil {
		t.Errorf("no key has another value in effect, and the changes are %v", same)
	}
}

// docs/operations.md states of each file that the server configuration names whether it is read again.
func TestReloadsAreDocumented(t *testing.T) {
	t.Parallel()
	section := func(document, heading string) string {
		content, err := os.ReadFile("../docs/" + document)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(content), "\n## "+heading+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
		return text
	}
	reloads := section("operations.md", "What reloads")
	keys := regexp.MustCompile("(?m)^\\| (`\\S+`) .*\\| a path \\|").FindAllStringSubmatch(section("configuration.md", "The server configuration"), -1)
	for _, key := range keys {
		if n := strings.Count(reloads, key[1]); n != 1 {
			t.Errorf("the section has %s %d times, want once", key[1], n)
		}
	}
	if len(keys) < 10 {
		t.Errorf("found %d files only", len(keys))
	}
}

// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// Each key of the server configuration is listed with its value and where that comes from, and no
// secret is.
func TestSettings(t *testing.T) {
	t.Parallel()
	const file = `listen: {http: 127.0.0.1:80}
issuers: issuers.yaml
public_url: https://ca.example
oidc:
  proxy: http://user:hunter2@proxy.example
ca: {file: {chain: chain.pem, key: key.pem}}
ct:
  logs:
    - url: https://log.example/2026
      public_key: log.pub
    - embedded: {name: e, dir: d, guard: ./g, key: k, origin: log.example/e}
trusted_proxies: [10.0.0.0/8, "::1"]
rate_limits: [{name: org, by: claim, claim: repository_owner, rate: 10/s, burst: 50}]
audit: {dir: audit, identity: plain, claims: [repository]}
trust: {tlogs: [{baseUrl: "https://u:hunter2@rekor.example"}]}
`
	s, _, err := ParseServer("m.yaml", []byte(file), []string{"MAYFLY_LISTEN_GRPC=127.0.0.1:81", "MAYFLY_LOG_LEVEL=warn"})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Setting{}
	for _, setting := range s.Settings() {
		if _, twice := found[setting.Key]; twice {
			t.Errorf("%s is listed twice", setting.Key)
		}
		found[setting.Key] = setting
		if strings.Contains(setting.Value, "hunter2") || strings.Contains(setting.Value, "\n") {
			t.Errorf("%s is shown as %q", setting.Key, setting.Value)
		}
	}
	for _, want := range []Setting{
		{"listen.http", "127.0.0.1:80", "m.yaml:1"},
		{"listen.grpc", "127.0.0.1:81", "MAYFLY_LISTEN_GRPC"},
		{"listen.ops", "127.0.0.1:2112", "default"},
		{"log.level", "warn", "MAYFLY_LOG_LEVEL"},
		{"tls.certificate", "", "default"},
		{"compat", "false", "default"},
		{"oidc.proxy", "(secret)", "m.yaml:5"},
		{"ca.file.key", "key.pem", "m.yaml:6"},
		{"ct.logs.0.url", "https://log.example/2026", "m.yaml:9"},
		{"ct.logs.0.embedded", "", "default"},
		{"ct.logs.1.embedded.batch_age", "10ms", "default"},
		{"ct.logs.1.embedded.name", "e", "m.yaml:11"},
		{"trusted_proxies", `[10.0.0.0/8, ::1/128]`, "m.yaml:12"},
		{"trust.tlogs", "# not shown here", "m.yaml:15"},
		{"limits.in_flight", "512", "default"},
		{"shutdown.grace", "0s", "default"},
		{"keys.algorithms", "", "default"},
	} {
		if found[want.Key] != want {
			t.Errorf("found %+v, want %+v", found[want.Key], want)
		}
	}
}

// No part of a URL that can hold a password is shown.
func TestSettingsHideWhatURLsHold(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://log.example/2026":            "https://log.example/2026",
		"https://u:p@log.example":             "https://(secret)@log.example",
		"https://u:p@q@log.example/@x":        "https://(secret)@x",
		"https://log.example/?token=secret#x": "https://log.example/?(secret)",
		"plain @ text?":                       "plain @ text?",
		"two\nlines":                          `"two\nlines"`,
		"true":                                `"true"`,
	} {
		if got := stringText(text); got != want {
			t.Errorf("%q: found %s, want %s", text, got, want)
		}
	}
}

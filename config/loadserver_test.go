// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// least is the smallest server configuration.
const least = `issuers: issuers.yaml
ca: {file: {chain: chain.pem, key: key.pem}}
ct: {logs: [{url: "https://log.example/2026", public_key: log.pub}]}
`

// leastServer returns the configuration of least in the directory dir.
func leastServer(dir string) *config.Server {
	return &config.Server{
		Listen:  config.Listen{HTTP: "127.0.0.1:5555", GRPC: "127.0.0.1:5554", Ops: "127.0.0.1:2112"},
		TLS:     config.TLS{Min: "1.3"},
		Issuers: filepath.Join(dir, "issuers.yaml"),
		OIDC: config.OIDC{KeyRefresh: 15 * time.Minute, KeyLifetime: 24 * time.Hour, Kubernetes: config.Kubernetes{
			CAFile:    "/var/run/fulcio/ca.crt",
			TokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
		}},
		CA:          config.CA{File: &config.CAFile{Chain: filepath.Join(dir, "chain.pem"), Key: filepath.Join(dir, "key.pem")}},
		Certificate: config.Certificate{Lifetime: 10 * time.Minute},
		CT:          config.CT{Logs: []config.CTLog{{URL: "https://log.example/2026", PublicKey: filepath.Join(dir, "log.pub")}}},
		Limits:      config.Limits{Idle: 650 * time.Second, InFlight: 512},
		Shutdown:    config.Shutdown{Drain: 20 * time.Second},
		Log:         config.Log{Format: "json", Level: "info"},
	}
}

var serverOptions = cmp.Options{
	cmpopts.IgnoreUnexported(config.Server{}),
	cmpopts.EquateComparable(netip.Prefix{}),
	cmp.Comparer(func(a, b config.Secret) bool { return a.Reveal() == b.Reveal() }),
}

func TestServerDefaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, dir string }{
		{"m.yaml", ""}, {"etc/m.yaml", "etc"}, {"/etc/mayfly/m.yaml", "/etc/mayfly"}, {"../m.yaml", ".."},
	} {
		server, warnings, err := config.ParseServer(tt.name, []byte(least), nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("mistakes %v, warnings %v", err, warnings)
		}
		if diff := cmp.Diff(leastServer(tt.dir), server, serverOptions); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestServerWithEveryKey(t *testing.T) {
	t.Parallel()
	server, warnings, err := config.ParseServer("/etc/m.yaml", []byte(`
listen: {http: ":443", grpc: ":443", ops: "[::1]:0"}
tls: {certificate: cert.pem, key: /run/key.pem, min: "1.2"}
public_url: https://ca.example
issuers: ../issuers.yaml
compat: true
trusted_proxies: [10.0.0.0/8, 192.0.2.7, "2001:db8::/32", "::ffff:172.16.0.0/108"]
oidc:
  {allow_loopback: true, insecure_hosts: [dex-idp, 10.0.0.5], key_refresh: 1m, key_lifetime: 2h, kubernetes: {api_server: "https://api.example:6443", ca_file: k/ca, token_file: k/token}}
ca: {set: ca.yaml}
certificate: {lifetime: 5m}
keys: {algorithms: [ed25519]}
ct:
  disabled: false
  logs:
    - {url: https://log.example, public_key: log.pub}
    - embedded: {name: "2026", dir: ctlog/2026, guard: guard/2026.json, key: ctlog.key, origin: log.example/2026}
    - embedded:
        {name: b, dir: ctlog/b, guard: guard/b.json, key: b.key, origin: b, batch_age: 20ms, checkpoint_interval: 2s, submit: {token_file: token}}
trust: {timestamp_authorities: [{uri: https://tsa.example, n: 1}], tlogs: [{baseUrl: x}, {}]}
limits: {connections: 900, idle: 11m, in_flight: 300}
shutdown: {grace: 8s, drain: 15s}
log: {format: text, level: debug}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Server{
		Listen:    config.Listen{HTTP: ":443", GRPC: ":443", Ops: "[::1]:0"},
		TLS:       config.TLS{Certificate: "/etc/cert.pem", Key: "/run/key.pem", Min: "1.2"},
		PublicURL: "https://ca.example",
		Issuers:   "/issuers.yaml",
		Compat:    true,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
			netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("172.16.0.0/12")},
		OIDC: config.OIDC{AllowLoopback: true, InsecureHosts: []string{"dex-idp", "10.0.0.5"}, KeyRefresh: time.Minute, KeyLifetime: 2 * time.Hour,
			Kubernetes: config.Kubernetes{APIServer: "https://api.example:6443", CAFile: "/etc/k/ca", TokenFile: "/etc/k/token"}},
		CA:          config.CA{Set: "/etc/ca.yaml"},
		Certificate: config.Certificate{Lifetime: 5 * time.Minute},
		Keys:        config.Keys{Algorithms: []string{"ed25519"}},
		CT: config.CT{Logs: []config.CTLog{
			{URL: "https://log.example", PublicKey: "/etc/log.pub"},
			{Embedded: &config.EmbeddedLog{
				Name: "2026", Dir: "/etc/ctlog/2026", Guard: "/etc/guard/2026.json", Key: "/etc/ctlog.key", Origin: "log.example/2026",
				BatchAge: 10 * time.Millisecond, CheckpointInterval: time.Second,
			}},
			{Embedded: &config.EmbeddedLog{
				Name: "b", Dir: "/etc/ctlog/b", Guard: "/etc/guard/b.json", Key: "/etc/b.key", Origin: "b",
				BatchAge: 20 * time.Millisecond, CheckpointInterval: 2 * time.Second, Submit: &config.Submit{TokenFile: "/etc/token"},
			}},
		}},
		Trust: config.Trust{
			TimestampAuthorities: []json.RawMessage{json.RawMessage(`{"uri":"https://tsa.example","n":1}`)},
			TLogs:                []json.RawMessage{json.RawMessage(`{"baseUrl":"x"}`), json.RawMessage(`{}`)},
		},
		Limits:   config.Limits{Connections: 900, Idle: 11 * time.Minute, InFlight: 300},
		Shutdown: config.Shutdown{Grace: 8 * time.Second, Drain: 15 * time.Second},
		Log:      config.Log{Format: "text", Level: "debug"},
	}
	if diff := cmp.Diff(want, server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
	wantWarnings := []string{
		"/etc/m.yaml:9:20: whoever can listen on a loopback address of this machine can be an issuer: for development only",
		"/etc/m.yaml:9:26: any party on the network between this server and dex-idp, 10.0.0.5 can be an issuer: for development only",
		"/etc/m.yaml:11:25: certificates last 5m0s and not the ten minutes that clients and verifiers were built for",
	}
	if diff := cmp.Diff(wantWarnings, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestServerMistakes(t *testing.T) {
	t.Parallel()
	const issuers, ca = "issuers: i.yaml\n", "ca: {set: ca.yaml}\n"
	const log = "ct: {logs: [{url: \"https://log.example\", public_key: log.pub}]}\n"
	const embedded = `ct: {logs: [{embedded: {name: a, dir: d, guard: g, key: k, origin: o`
	for _, tt := range []struct {
		name, content string
		want          []string
	}{
		{"empty", "", []string{"m:1:1: the file is empty"}},
		{"nothing but a null", "listen:\n", []string{
			"m:1:1: issuers is missing: it names the file of trusted issuers",
			"m:1:1: no certificate authority: name one with ca.file (chain and key) or a CA set with ca.set",
			"m:1:1: no Certificate Transparency log: list one under ct.logs, or say ct: {disabled: true} to issue certificates that no log knows"}},
		{"unknown key", least + "isuers: x\n", []string{`m:4:1: unknown key "isuers"; did you mean "issuers"?`}},
		{"unknown key below", least + "listen:\n  htpp: 127.0.0.1:1\n", []string{`m:5:3: unknown key "htpp"; did you mean "http"?`}},
		{"kebab-case", least + "public-url: https://x\n", []string{`m:4:1: unknown key "public-url"; did you mean "public_url"?`}},
		{"a password in the file", strings.Replace(least, "key: key.pem", "password: hunter2, key: k", 1), []string{
			`m:2:31: unknown key "password"; the keys here are chain, key, password_file`}},
		{"duplicate key", least + "issuers: x\n", []string{`m:4:1: the key "issuers" stands twice, first in line 1`}},
		{"text for a mapping", least + "listen: 127.0.0.1:1\n", []string{"m:4:9: found text, where a mapping with the keys http, grpc, ops is wanted"}},
		{"mapping for text", least + "public_url: {}\n", []string{"m:4:13: found a mapping, where text is wanted"}},
		{"number for text", least + "tls: {certificate: c, key: k, min: 1.3}\n", []string{"m:4:36: found the number 1.3, where text is wanted: write it in quotes"}},
		{"text for a truth value", least + "compat: maybe\n", []string{"m:4:9: found text, where true or false is wanted"}},
		{"no network", least + "trusted_proxies: [10.0.0.0/8, load-balancer, 10.0.0.0/33, ~]\n", []string{
			`m:4:31: found "load-balancer", expected a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32`,
			`m:4:46: found "10.0.0.0/33", expected a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32`,
			`m:4:59: found "", expected a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32`}},
		{"a network with bits beyond its length", least + "trusted_proxies:\n  - 10.1.2.3/8\n", []string{
			"m:5:5: 10.1.2.3/8 has bits beyond its length: write 10.0.0.0/8 for the network, or 10.1.2.3/32 for the one address"}},
		{"text for a list", least + "keys: {algorithms: ed25519}\n", []string{
			"m:4:20: found text, where a list is wanted: one entry is a list too, written in brackets"}},
		{"duration without a unit", least + "certificate: {lifetime: \"10\"}\n", []string{
			`m:4:25: found "10", where a duration with its unit is wanted, such as 10m`}},
		{"list for a duration", least + "certificate: {lifetime: [10m]}\n", []string{"m:4:25: found a list, where text is wanted"}},
		{"duration in a log", issuers + ca + embedded + ", batch_age: 10, checkpoint_interval: soon}}]}\n", []string{
			`m:3:82: found "10", where a duration with its unit is wanted, such as 10m`,
			`m:3:107: found "soon", where a duration with its unit is wanted, such as 10m`}},
		{"a URL that cannot be parsed", least + "public_url: \"https://ca.example/%zz\"\n", []string{`m:4:13: found "https://ca.example/%zz", which is no URL`}},
		{"not a choice", least + "log: {format: jsno, level: WARN}\n", []string{
			`m:4:15: found "jsno", where one of json, text is wanted; did you mean "json"?`,
			`m:4:28: found "WARN", where one of debug, info, warn, error is wanted; did you mean "warn"?`}},
		{"addresses", least + "listen: {http: localhost, grpc: \"1:2:3\", ops: \"a:http\"}\n", []string{
			`m:4:16: found "localhost", where host:port with a numeric port is wanted`,
			`m:4:33: found "1:2:3", where host:port with a numeric port is wanted`,
			`m:4:47: found "a:http", where host:port with a numeric port is wanted`}},
		{"gRPC on every interface, REST on one", least + "listen: {grpc: \"0.0.0.0:5555\"}\n", []string{
			`m:4:16: 0.0.0.0:5555 and the other listener's 127.0.0.1:5555 exclude each other: an address of every interface needs a port of its own`,
		}},
		{"REST on every interface, operations on one", least + "listen: {http: \":2112\"}\n", []string{
			`m:4:1: 127.0.0.1:2112 and the other listener's :2112 exclude each other: an address of every interface needs a port of its own`,
		}},
		{"operations on the API's address", least + "listen: {ops: \"127.0.0.1:5554\"}\n", []string{
			"m:4:15: the address 127.0.0.1:5554 is also the API's, whose clients must not reach metrics and the causes of failures: it needs a port of its own"}},
		{"certificate without key", least + "tls: {certificate: c}\n", []string{"m:4:1: tls.certificate is there without tls.key, the file of its private key"}},
		{"key without certificate", least + "tls: {key: k}\n", []string{"m:4:1: tls.key is there without tls.certificate, the file of the certificate"}},
		{"public URL without a scheme", least + "public_url: ca.example\n", []string{`m:4:13: found "ca.example", where an https URL is wanted`}},
		{"public URL with a query", least + "public_url: https://ca.example/?x\n", []string{"m:4:13: the URL has a query, a fragment or user information, and must have none"}},
		{"proxy of another kind", least + "oidc: {proxy: \"socks5://user:hunter2@proxy:1080\"}\n", []string{
			"m:4:15: the value is not of the form http://host:port, https://host:port, or the same with a user name and password"}},
		{"key times", least + "oidc: {key_refresh: 9s, key_lifetime: 8s}\n", []string{
			"m:4:21: found 9s, where 10s to 1h is wanted: a key that its issuer has withdrawn may be accepted that long",
			"m:4:39: found 8s, where key_refresh (9s) to 168h is wanted: keys that cannot be read again are trusted that long"}},
		{"key lifetime without end", least + "oidc: {key_lifetime: 169h}\n", []string{
			"m:4:22: found 169h0m0s, where key_refresh (15m0s) to 168h is wanted: keys that cannot be read again are trusted that long"}},
		{"insecure hosts", least + "oidc:\n  insecure_hosts:\n    - http://dex-idp\n    - dex-idp:8888\n    - dex-idp/auth\n    - \"*.test\"\n    - \"\"\n    - [a]\n    - a@b\n    - fd00::5\n", []string{
			`m:6:7: found "http://dex-idp"; the name or IP address of one host is expected, without a scheme, port, path or *`,
			`m:7:7: found "dex-idp:8888"; the name or IP address of one host is expected, without a scheme, port, path or *`,
			`m:8:7: found "dex-idp/auth"; the name or IP address of one host is expected, without a scheme, port, path or *`,
			`m:9:7: found "*.test"; the name or IP address of one host is expected, without a scheme, port, path or *`,
			`m:10:7: found ""; the name or IP address of one host is expected, without a scheme, port, path or *`,
			"m:11:7: found a list, where text is wanted",
			`m:12:7: found "a@b"; the name or IP address of one host is expected, without a scheme, port, path or *`}},
		{"API server without TLS", least + "oidc: {kubernetes: {api_server: \"http://api.example\"}}\n", []string{
			`m:4:33: found "http://api.example", where an https URL is wanted`}},
		{"no issuers", ca + log, []string{"m:1:1: issuers is missing: it names the file of trusted issuers"}},
		{"no CA", issuers + log, []string{"m:1:1: no certificate authority: name one with ca.file (chain and key) or a CA set with ca.set"}},
		{"two CAs", issuers + "ca: {set: s, file: {chain: c, key: k}}\n" + log, []string{
			"m:2:11: ca.file and ca.set exclude each other: keep the one that holds the authority"}},
		{"CA file without its parts", issuers + "ca: {file: {password_file: p}}\n" + log, []string{
			"m:2:6: ca.file.chain is missing: it names the PEM file with the issuing CA first and the root last",
			"m:2:6: ca.file.key is missing: it names the PEM file of the issuing CA's private key"}},
		{"CA file as text", issuers + "ca: {file: c.pem}\n" + log, []string{
			"m:2:12: found text, where a mapping with the keys chain, key, password_file is wanted"}},
		{"lifetime too short", least + "certificate: {lifetime: 59s}\n", []string{"m:4:25: found 59s, where a lifetime from 1m to 60m is wanted"}},
		{"lifetime too long", least + "certificate: {lifetime: 61m}\n", []string{"m:4:25: found 1h1m0s, where a lifetime from 1m to 60m is wanted"}},
		{"lifetime with a fraction", least + "certificate: {lifetime: 90.5s}\n", []string{
			"m:4:25: found 1m30.5s, where whole seconds are wanted: certificates know no smaller unit"}},
		{"limits that cannot be", least + "limits: {connections: -1, idle: 0s, in_flight: 0}\nshutdown: {grace: -1s, drain: 0s}\n", []string{
			"m:4:23: found -1, where 0 or a positive number is expected; 0 derives it from the limit on file descriptors",
			"m:4:33: found 0s, where 1s to 24h0m0s is expected",
			"m:4:48: found 0, where a positive number is expected",
			"m:5:19: found -1s, where 0s to 1h0m0s is expected",
			"m:5:31: found 0s, where 1s to 1h0m0s is expected"}},
		{"limits of another type", least + "limits: {connections: 1.5, idle: 650, in_flight: many}\n", []string{
			`m:4:23: found "1.5", where a whole number is expected`,
			`m:4:34: found "650", where a duration with its unit is wanted, such as 10m`,
			`m:4:50: found "many", where a whole number is expected`}},
		{"fewer connections than requests", least + "limits: {connections: 500}\n", []string{
			"m:4:23: found 500, which is less than limits.in_flight (512): each request needs a connection of its own"}},
		{"no key permitted", least + "keys: {algorithms: []}\n", []string{
			"m:4:8: the list is empty, so that no key at all would be certified; leave it out to permit all"}},
		{"CT off because a list was empty", issuers + ca + "ct: {logs: []}\n", []string{
			"m:3:1: no Certificate Transparency log: list one under ct.logs, or say ct: {disabled: true} to issue certificates that no log knows"}},
		{"CT neither on nor off", issuers + ca + "ct: {disabled: false}\n", []string{
			"m:3:1: no Certificate Transparency log: list one under ct.logs, or say ct: {disabled: true} to issue certificates that no log knows"}},
		{"CT both on and off", issuers + ca + "ct: {disabled: true, logs: [{url: \"https://l\", public_key: p}]}\n", []string{
			"m:3:16: ct.disabled and ct.logs exclude each other: remove the one that is not meant"}},
		{"log without a key", issuers + ca + "ct: {logs: [{url: \"https://log.example\"}]}\n", []string{
			"m:3:13: the key is mandatory: public_key names the PEM file of the log's key, with which every SCT is verified"}},
		{"log without anything", issuers + ca + "ct: {logs: [{}, ~, x]}\n", []string{
			"m:3:13: the log has neither a url, for a remote log, nor embedded, for one in this process",
			"m:3:17: the entry is empty: a log has a url and a public_key, or is embedded",
			"m:3:20: found text, where a mapping with the keys url, public_key, token_file, activate_at, retire_at, embedded is wanted"}},
		{"log with a bad URL", issuers + ca + "ct: {logs: [{url: log.example, public_key: p}]}\n", []string{
			`m:3:19: found "log.example", where an https URL is wanted`}},
		{"one log twice", issuers + ca + "ct:\n  logs:\n    - {url: https://l, public_key: p}\n    - {url: https://l/, public_key: p}\n", []string{
			`m:6:13: "https://l" is also that of log 1 in this list`}},
		{"remote and embedded", issuers + ca + embedded + "}, url: \"https://l\"}]}\n", []string{
			"m:3:14: url and embedded exclude each other: a log is remote or in this process, and two logs are two entries"}},
		{"embedded with a public key", issuers + ca + embedded + "}, public_key: p}]}\n", []string{
			"m:3:84: public_key is a remote log's: an embedded log has its key in embedded.key"}},
		{"embedded without its parts", issuers + ca + "ct: {logs: [{embedded: {submit: {}}}]}\n", []string{
			"m:3:14: embedded.name is missing: it is the path under which the log is served",
			"m:3:14: embedded.dir is missing: it is the directory of its entries",
			"m:3:14: embedded.guard is missing: it is the file that keeps its newest tree head",
			"m:3:14: embedded.key is missing: it is the file of its private key",
			"m:3:14: embedded.origin is missing: it is its name in checkpoints",
			"m:3:25: embedded.submit.token_file is missing: without submit, no client may submit over HTTP; with it, clients with the token may"}},
		{"embedded with durations of nothing", issuers + ca + embedded + ", batch_age: 0s, checkpoint_interval: 0ms}}]}\n", []string{
			"m:3:82: found 0s, where a duration above zero is expected",
			"m:3:107: found 0s, where a duration above zero is expected"}},
		{"embedded logs that share", issuers + ca + embedded + "}}, {embedded: {name: a, dir: d, guard: h, key: l, origin: o}}]}\n", []string{
			`m:3:91: "a" is also that of log 1 in this list`,
			`m:3:99: "d" is also that of log 1 in this list`}},
		{"trust entry that is no object", least + "trust: {tlogs: [x], timestamp_authorities: [[]]}\n", []string{
			"m:4:17: found text, where a mapping is wanted",
			"m:4:45: found a list, where a mapping is wanted"}},
		{"every mistake at once", "listen: {http: x}\nisuers: i\n" + ca + "ct: {logs: []}\n", []string{
			"m:1:1: issuers is missing: it names the file of trusted issuers",
			`m:1:16: found "x", where host:port with a numeric port is wanted`,
			`m:2:1: unknown key "isuers"; did you mean "issuers"?`,
			"m:4:1: no Certificate Transparency log: list one under ct.logs, or say ct: {disabled: true} to issue certificates that no log knows"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, _, err := config.ParseServer("m", []byte(tt.content), nil)
			if diff := cmp.Diff(tt.want, lines(err)); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
			if server != nil {
				t.Error("a server beside mistakes")
			}
		})
	}
}

func TestServerWithoutTransparencyIsWarnedOf(t *testing.T) {
	t.Parallel()
	_, warnings, err := config.ParseServer("m", []byte("issuers: i\nca: {set: s}\nct: {disabled: true}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"m:3:16: Certificate Transparency is disabled: certificates are issued that no log knows and that most verifiers refuse"}
	if diff := cmp.Diff(want, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestProxiesOfEveryNetwork: trust in every address is legal, and a warning.
func TestProxiesOfEveryNetwork(t *testing.T) {
	t.Parallel()
	server, warnings, err := config.ParseServer("m", []byte(least+"trusted_proxies: [0.0.0.0/0, \"::/0\"]\n"), nil)
	if err != nil || len(server.TrustedProxies) != 2 {
		t.Fatalf("%v, %v", server, err)
	}
	if got := lines(config.Mistakes(warnings)); len(got) != 2 || !strings.HasPrefix(got[0], "m:4:19: 0.0.0.0/0 is") || !strings.HasPrefix(got[1], "m:4:30: ::/0 is") {
		t.Errorf("warnings %q", got)
	}
}

func TestServerEnvironment(t *testing.T) {
	t.Parallel()
	environ := []string{
		"HOME=/root", "MAYFLY", "MAYFLYX=1",
		"MAYFLY_LISTEN_HTTP=:1", "MAYFLY_LISTEN_GRPC=", "MAYFLY_TLS_CERTIFICATE=c.pem", "MAYFLY_TLS_KEY=/k.pem", "MAYFLY_TLS_MIN=1.2",
		"MAYFLY_PUBLIC_URL=https://env.example", "MAYFLY_COMPAT=true", "MAYFLY_CA_FILE_CHAIN=env.pem",
		"MAYFLY_CA_FILE_PASSWORD=hunter2", "MAYFLY_CERTIFICATE_LIFETIME=600s", "MAYFLY_LOG_LEVEL=warn", "MAYFLY_OIDC_KUBERNETES_CA_FILE=ca",
	}
	server, warnings, err := config.ParseServer("/etc/m.yaml", []byte(least+"listen: {http: \":2\", grpc: \":3\"}\nlog: {level: debug, format: text}\n"), environ)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("mistakes %v, warnings %v", err, warnings)
	}
	want := leastServer("/etc")
	want.Listen.HTTP, want.Listen.GRPC = ":1", ":3"
	want.TLS = config.TLS{Certificate: "c.pem", Key: "/k.pem", Min: "1.2"}
	want.PublicURL, want.Compat = "https://env.example", true
	want.CA.File.Chain = "env.pem" // a variable's path is relative to the working directory
	want.OIDC.Kubernetes.CAFile = "ca"
	want.Log = config.Log{Format: "text", Level: "warn"}
	password := server.CA.File.Password
	if password.Reveal() != "hunter2" {
		t.Errorf("password %q", password.Reveal())
	}
	server.CA.File.Password = config.Secret{}
	if diff := cmp.Diff(want, server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
}

// TestServerFromEnvironmentAlone checks that a key needs no group in the file.
func TestServerFromEnvironmentAlone(t *testing.T) {
	t.Parallel()
	server, _, err := config.ParseServer("m", []byte("log:\n"), []string{
		"MAYFLY_ISSUERS=i.yaml", "MAYFLY_CA_SET=ca.yaml", "MAYFLY_CT_DISABLED=true",
	})
	if err != nil {
		t.Fatal(err)
	}
	if server.Issuers != "i.yaml" || server.CA.Set != "ca.yaml" || server.CA.File != nil || !server.CT.Disabled {
		t.Errorf("got %+v", server)
	}
}

func TestServerEnvironmentMistakes(t *testing.T) {
	t.Parallel()
	_, warnings, err := config.ParseServer("m", []byte(least+"ct_logs: {}\n"), []string{
		"MAYFLY_COMPAT=maybe", "MAYFLY_CERTIFICATE_LIFETIME=10", "MAYFLY_LOG_FORMAT=xml", "MAYFLY_LISTEN_OPS=x", "MAYFLY_CA_SET=s",
		"MAYFLY_CT_DISABLED=1",
		"MAYFLY_LISTEN_HTPP=secret", "MAYFLY_CT_LOGS=secret", "MAYFLY_PORT=tcp://10.0.0.1:5555",
	})
	want := []string{
		"MAYFLY_COMPAT: found \"maybe\", where true or false is wanted",
		"MAYFLY_CERTIFICATE_LIFETIME: found \"10\", where a duration with its unit is wanted, such as 10m",
		"MAYFLY_LOG_FORMAT: found \"xml\", where one of json, text is wanted",
		"MAYFLY_LISTEN_OPS: found \"x\", where host:port with a numeric port is wanted",
		"MAYFLY_CA_SET: ca.file and ca.set exclude each other: keep the one that holds the authority",
		"MAYFLY_CT_DISABLED: ct.disabled and ct.logs exclude each other: remove the one that is not meant",
		`m:4:1: unknown key "ct_logs"`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	wantWarnings := []string{
		`MAYFLY_LISTEN_HTPP: unknown environment variable; did you mean "MAYFLY_LISTEN_HTTP"?`,
		"MAYFLY_CT_LOGS: unknown environment variable",
		"MAYFLY_PORT: unknown environment variable",
	}
	if diff := cmp.Diff(wantWarnings, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestServiceLinksOfKubernetesAreNoMistakes(t *testing.T) {
	t.Parallel()
	_, warnings, err := config.ParseServer("m", []byte(least), []string{
		"KUBERNETES_SERVICE_HOST=10.0.0.1", "MAYFLY_SERVICE_HOST=10.0.0.2", "MAYFLY_SERVICE_PORT_HTTP=5555", "MAYFLY_OPS_PORT=tcp://10.0.0.2:5555",
		"MAYFLY_PORT_5555_TCP_ADDR=10.0.0.2", "MAYFLY_PORTS=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"MAYFLY_PORTS: unknown environment variable"}, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestPasswordIsNeverShown(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	environ := []string{"MAYFLY_CA_FILE_PASSWORD=" + password, "MAYFLY_OIDC_PROXY=http://user:" + password + "@proxy.example"}
	server, _, err := config.ParseServer("m", []byte(least), environ)
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", server.CA.File.Password)
		fmt.Fprintf(&shown, verb+"\n", *server.CA.File)
		fmt.Fprintf(&shown, verb+"\n", server.OIDC)
		fmt.Fprintf(&shown, verb+"\n", server)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("config", "password", server.CA.File.Password, "server", server)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("config", "password", server.CA.File.Password, "file", server.CA.File)
	if err := json.NewEncoder(&shown).Encode(server); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := config.ParseServer("m", []byte(strings.Replace(least, "key:", "password_file: p, key:", 1)), environ)
	fmt.Fprintln(&shown, err, warnings)
	if !strings.Contains(err.Error(), "m:2:46: ca.file.password_file and the environment variable MAYFLY_CA_FILE_PASSWORD exclude each other") {
		t.Errorf("two passwords: %v", err)
	}
	_, warnings, _ = config.ParseServer("m", []byte("ca: {set: s}"), environ)
	if fmt.Fprintln(&shown, warnings); len(warnings) != 1 {
		t.Errorf("a password without a use: %v", warnings)
	}
	if strings.Contains(shown.String(), password) || strings.Contains(shown.String(), fmt.Sprintf("%x", password)) {
		t.Errorf("the password shows:\n%s", shown.String())
	}
}

func TestServerExplain(t *testing.T) {
	t.Parallel()
	server, _, err := config.ParseServer("m", []byte(least), []string{"MAYFLY_CA_FILE_KEY=k"})
	if err != nil {
		t.Fatal(err)
	}
	got := server.Explain(errors.Join(
		keypath.Errorf([]string{"ca", "file", "chain"}, "expired"),
		keypath.Errorf([]string{"ca", "file", "key"}, "no key"),
		keypath.Errorf([]string{"ct", "logs", "0", "public_key"}, "no key"),
		keypath.Errorf([]string{"listen", "http"}, "in use"),
		errors.New("broken"),
	))
	want := []string{"m:2:20: expired", "MAYFLY_CA_FILE_KEY: no key", "m:3:59: no key", "m:1:1: in use", "m: broken"}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if err := server.Explain(nil); err != nil {
		t.Errorf("no error is explained as %v", err)
	}
}

func TestExampleConfiguration(t *testing.T) {
	t.Parallel()
	server, warnings, err := config.LoadServer("mayfly.example.yaml", nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("mistakes %v, warnings %v", err, warnings)
	}
	want := leastServer("")
	want.PublicURL = "https://ca.example"
	want.CA.File = &config.CAFile{Chain: "ca/chain.pem", Key: "ca/key.pem", PasswordFile: "ca/password"}
	want.CT.Logs[0].PublicKey = "ctlog/log.pub"
	if diff := cmp.Diff(want, server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
}

// TestExampleIsWholeAndTrue reads the example with every commented-out key enabled: each of them
// exists, and those shown as defaults are the defaults.
func TestExampleIsWholeAndTrue(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("mayfly.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var whole strings.Builder
	for line := range strings.Lines(string(content)) {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		key, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "# ")
		switch {
		case !ok, strings.HasPrefix(key, "set:"), strings.HasPrefix(key, "signer_socket:"), strings.HasPrefix(key, "disabled:"):
			whole.WriteString(line)
		case strings.HasPrefix(strings.TrimSpace(key), "- "), isKey(key):
			whole.WriteString(indent + key)
		}
	}
	server, warnings, err := config.ParseServer("", []byte(whole.String()), nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("mistakes %v, warnings %v in\n%s", err, warnings, whole.String())
	}
	if server.Certificate.Lifetime != 10*time.Minute || server.TLS.Min != "1.3" || server.Compat ||
		len(server.Keys.Algorithms) != 7 || len(server.CT.Logs) != 2 {
		t.Errorf("got %+v", server)
	}
	wantOIDC, proxy := leastServer("").OIDC, server.OIDC.Proxy
	wantOIDC.Proxy, wantOIDC.Kubernetes.APIServer = proxy, "https://api.cluster.internal"
	if diff := cmp.Diff(wantOIDC, server.OIDC, serverOptions); diff != "" || proxy.Reveal() != "http://proxy.example:3128" {
		t.Errorf("oidc (-want +got):\n%s", diff)
	}
	if e := server.CT.Logs[1].Embedded; e == nil || e.BatchAge != 10*time.Millisecond || e.CheckpointInterval != time.Second || e.Submit == nil {
		t.Errorf("embedded log %+v", e)
	}
}

// isKey distinguishes a commented-out key from prose: one lower-case word and a colon.
func isKey(line string) bool {
	word, _, ok := strings.Cut(strings.TrimSpace(line), ":")
	return ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// TestNullLeavesTheDefault checks that a key without a value has no effect.
func TestNullLeavesTheDefault(t *testing.T) {
	t.Parallel()
	server, _, err := config.ParseServer("m", []byte(least+"listen: {http: , grpc: ~}\ntls:\nlog: {level: }\nkeys: {algorithms: }\ntrust:\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(leastServer(""), server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
	if server.File().Name() != "m" || server.File().JSON() {
		t.Errorf("file %+v", server.File())
	}
}

func TestLoadServerWithoutAFile(t *testing.T) {
	t.Parallel()
	if _, _, err := config.LoadServer(filepath.Join(t.TempDir(), "m.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{least, "", "{}", "ct: {logs: [~, {embedded: ~}, {embedded: {submit: ~}}]}", "ca: {file: ~}", "ca: x", "listen: {http: [x]}", "keys: {algorithms: ~}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		server, _, err := config.ParseServer("m", content, nil)
		if (err == nil) != (server != nil) {
			t.Fatalf("server %v and error %v", server, err)
		}
		if mistakes := (config.Mistakes)(nil); err != nil && !errors.As(err, &mistakes) {
			t.Fatalf("error %T: %v", err, err)
		}
	})
}

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
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/oidc"
	edge "github.com/mayfly-ca/mayfly/server"
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
		OIDC: config.OIDC{Config: oidc.Config{KeyRefresh: 15 * time.Minute, KeyLifetime: 24 * time.Hour, Kubernetes: oidc.Kubernetes{
			CAFile:    "/var/run/fulcio/ca.crt",
			TokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
		}}},
		CA:          config.CA{File: &config.CAFile{Chain: filepath.Join(dir, "chain.pem"), Key: filepath.Join(dir, "key.pem")}},
		Certificate: config.Certificate{Lifetime: 10 * time.Minute},
		CT:          config.CT{Logs: []config.CTLog{{URL: "https://log.example/2026", PublicKey: filepath.Join(dir, "log.pub")}}},
		Limits:      edge.Limits{Idle: 650 * time.Second, InFlight: 512},
		Shutdown:    config.Shutdown{Drain: 20 * time.Second},
		Log:         config.Log{Format: "json", Level: "info"},
	}
}

var serverOptions = cmp.Options{
	cmpopts.IgnoreFields(config.Server{}, "File"),
	cmpopts.IgnoreUnexported(embedded.Config{}),
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
		OIDC: config.OIDC{Config: oidc.Config{AllowLoopback: true, InsecureHosts: []string{"dex-idp", "10.0.0.5"}, KeyRefresh: time.Minute, KeyLifetime: 2 * time.Hour,
			Kubernetes: oidc.Kubernetes{APIServer: "https://api.example:6443", CAFile: "/etc/k/ca", TokenFile: "/etc/k/token"}}},
		CA:          config.CA{Set: "/etc/ca.yaml"},
		Certificate: config.Certificate{Lifetime: 5 * time.Minute},
		Keys:        config.Keys{Algorithms: []string{"ed25519"}},
		CT: config.CT{Logs: []config.CTLog{
			{URL: "https://log.example", PublicKey: "/etc/log.pub"},
			{Embedded: &embedded.Config{
				Name: "2026", Dir: "/etc/ctlog/2026", Guard: "/etc/guard/2026.json", Key: "/etc/ctlog.key", Origin: "log.example/2026",
				BatchAge: 10 * time.Millisecond, CheckpointInterval: time.Second,
			}},
			{Embedded: &embedded.Config{
				Name: "b", Dir: "/etc/ctlog/b", Guard: "/etc/guard/b.json", Key: "/etc/b.key", Origin: "b",
				BatchAge: 20 * time.Millisecond, CheckpointInterval: 2 * time.Second, Submit: &embedded.Submit{TokenFile: "/etc/token"},
			}},
		}},
		Trust: config.Trust{
			TimestampAuthorities: []json.RawMessage{json.RawMessage(`{"n":1,"uri":"https://tsa.example"}`)},
			TLogs:                []json.RawMessage{json.RawMessage(`{"baseUrl":"x"}`), json.RawMessage(`{}`)},
		},
		Limits:   edge.Limits{Connections: 900, Idle: 11 * time.Minute, InFlight: 300},
		Shutdown: config.Shutdown{Grace: 8 * time.Second, Drain: 15 * time.Second},
		Log:      config.Log{Format: "text", Level: "debug"},
	}
	if diff := cmp.Diff(want, server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
	wantWarnings := []string{
		"/etc/m.yaml:9:20: any program that can listen on a loopback address of this machine can be an issuer: for development only",
		"/etc/m.yaml:9:26: any party on the network between this server and dex-idp, 10.0.0.5 can be an issuer: for development only",
		"/etc/m.yaml:11:25: certificates are valid for 5m0s and not for the ten minutes that clients and verifiers were built for",
	}
	if diff := cmp.Diff(wantWarnings, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestServerWithoutTransparencyIsWarnedOf(t *testing.T) {
	t.Parallel()
	_, warnings, err := config.ParseServer("m", []byte("issuers: i\nca: {set: s}\nct: {disabled: true}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"m:3:16: Certificate Transparency is disabled: certificates are issued that are in no log and that most verifiers refuse"}
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
		"MAYFLY_CERTIFICATE_LIFETIME=600s", "MAYFLY_LOG_LEVEL=warn", "MAYFLY_OIDC_KUBERNETES_CA_FILE=ca",
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
		"MAYFLY_LISTEN_OPS: found \"x\", expected host:port with a numeric port",
		"MAYFLY_COMPAT: found \"maybe\", expected true or false",
		"MAYFLY_CA_SET: ca.file and ca.set exclude each other: keep the one that holds the authority",
		"MAYFLY_CERTIFICATE_LIFETIME: found \"10\", expected a duration with its unit, such as 10m",
		"MAYFLY_CT_DISABLED: ct.disabled and ct.logs exclude each other: remove the one that is not meant",
		"MAYFLY_LOG_FORMAT: found \"xml\", expected one of json, text",
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
		"MAYFLY_PORT_5555_TCP_ADDR=10.0.0.2", "MAYFLY_PROT=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"MAYFLY_PROT: unknown environment variable"}, lines(config.Mistakes(warnings))); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	server, _, err := config.ParseServer("m", []byte(least), []string{"MAYFLY_OIDC_PROXY=http://user:" + password + "@proxy.example"})
	if err != nil || !strings.Contains(server.OIDC.Proxy.Reveal(), password) {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", server.OIDC.Proxy)
		fmt.Fprintf(&shown, verb+"\n", server.OIDC)
		fmt.Fprintf(&shown, verb+"\n", server)
	}
	slog.New(slog.NewTextHandler(&shown, nil)).Info("config", "proxy", server.OIDC.Proxy, "server", server)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("config", "proxy", server.OIDC.Proxy, "server", server)
	if err := json.NewEncoder(&shown).Encode(server.OIDC.Proxy); err != nil {
		t.Fatal(err)
	}
	_, _, err = config.ParseServer("m", []byte(least+"oidc: {proxy: \"socks5://user:"+password+"@proxy:1080\"}\n"), nil)
	fmt.Fprintln(&shown, err)
	_, _, err = config.ParseServer("m", []byte(least+"oidc: {proxy: 4711}\n"), nil)
	fmt.Fprintln(&shown, err)
	if err == nil || strings.Contains(shown.String(), "4711") || strings.Contains(shown.String(), password) || strings.Contains(shown.String(), fmt.Sprintf("%x", password)) {
		t.Errorf("the password is shown:\n%s", shown.String())
	}
}

func TestServerWithPlaces(t *testing.T) {
	t.Parallel()
	server, _, err := config.ParseServer("m", []byte(least), []string{"MAYFLY_CA_FILE_KEY=k"})
	if err != nil {
		t.Fatal(err)
	}
	got := server.WithPlaces(errors.Join(
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
	if err := server.WithPlaces(nil); err != nil {
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
	server, _, err := config.ParseServer("m", []byte(least+"listen: {http: , grpc: ~}\ntls:\nlog: {level: }\ntrust:\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(leastServer(""), server, serverOptions); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
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

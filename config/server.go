// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/trace"
)

// Server is the server configuration, the file that `mayfly serve --config` names. The comments and
// tags of its fields are the source of docs/configuration.md.
//
// Paths are relative to the file that names them; those of an environment variable, to the working
// directory. LoadServer has resolved them. An environment variable can set every key that holds one
// value, and is named after the key's path: listen.http is MAYFLY_LISTEN_HTTP. A variable overrides
// the file, and an empty one has no effect. Only the file can set lists.
type Server struct {
	Listen Listen `key:"listen"`
	TLS    TLS    `key:"tls"`
	// PublicURL is the URL at which clients reach this server, for trusted_root.json and
	// signing_config.v0.2.json. Without it, the server does not serve these two documents.
	PublicURL string `key:"public_url"`
	// Issuers is the file of trusted issuers. The server reads it again when its content changes.
	Issuers string `key:"issuers" kind:"path" required:"it names the file of trusted issuers"`
	// Compat turns faults that Fulcio tolerates in an issuer file, such as an unknown key, into
	// warnings.
	Compat bool `key:"compat"`
	// Tests is the effect of a test beside an issuer that fails. With enforce it is a mistake of the
	// issuer file: the server does not start with the file, or keeps the last good one. With warn it is
	// a warning in the log.
	Tests string `key:"tests" default:"enforce" oneof:"enforce warn"`
	// TrustedProxies are the networks of the proxies in front of this server, as CIDRs or single
	// addresses. For a request from one of them, the client is the rightmost address of
	// X-Forwarded-For that is not a trusted proxy's: the log shows it, and limits apply to it.
	TrustedProxies []netip.Prefix `key:"trusted_proxies"`
	// RateLimits is `rate_limits`: limits that this operator sets, beside those of every server
	// (limits.md). A change takes effect at a restart.
	RateLimits []ratelimit.Rule `key:"rate_limits"`

	OIDC        OIDC          `key:"oidc"`
	CA          CA            `key:"ca"`
	Certificate Certificate   `key:"certificate"`
	Keys        Keys          `key:"keys"`
	CT          CT            `key:"ct"`
	Trust       Trust         `key:"trust"`
	Limits      server.Limits `key:"limits"`
	Shutdown    Shutdown      `key:"shutdown"`
	Trace       *trace.Config `key:"trace"`
	Ops         server.Ops    `key:"ops"`
	Log         Log           `key:"log"`
	// Audit records each certificate durably before it is signed. Without it, the server warns at its start.
	Audit *audit.Config `key:"audit"`

	*File
}

// Listen is `listen`: the addresses, each as host:port. An empty host is every interface. A socket that systemd passes
// must have the address of the same name (linux.md).
type Listen struct {
	// HTTP is the address of the REST API.
	HTTP string `key:"http" kind:"address" default:"127.0.0.1:5555"`
	// GRPC is the address of the gRPC API. If it equals http, both are served on one port, which
	// sigstore-java needs.
	GRPC string `key:"grpc" kind:"address" default:"127.0.0.1:5554"`
	// Ops is the address of metrics and readiness. Clients must never reach it, and it must differ
	// from the other two.
	Ops string `key:"ops" kind:"address" default:"127.0.0.1:2112"`
	// ProxyProtocol is the list of the listeners, out of http and grpc, whose connections begin with the address of the
	// client in the PROXY protocol (version 1 or 2), before TLS. On them it is mandatory: a connection without it, or from an
	// address that is not in trusted_proxies, is closed. Both on one port need http alone.
	ProxyProtocol []string `key:"proxy_protocol"`
}

// TLS is `tls`: the certificate of the HTTP and gRPC listeners. Without it, both serve plain text,
// and a component in front of them must terminate TLS.
type TLS struct {
	// Certificate is a PEM file, leaf first. It requires key.
	Certificate string `key:"certificate" kind:"path"`
	// Key is the PEM file of its private key. The server reads both files again when their content
	// changes.
	Key string `key:"key" kind:"path"`
	// Min is the oldest TLS version accepted.
	Min string `key:"min" default:"1.3" oneof:"1.2 1.3"`
}

// OIDC is `oidc`: the connections to providers.
type OIDC struct {
	oidc.Config `key:""`
	// Proxy is the http or https URL of a proxy for connections to issuers; HTTPS_PROXY has no
	// effect. The proxy resolves the names of issuers, so it must refuse those that lead into the
	// inner network. Connections to entries with allow-private-network, the cluster's own issuer and
	// loopback addresses are direct. It may hold a password.
	Proxy Secret `key:"proxy" kind:"secret"`
	// ProxyCAFile is a PEM file of the CA certificates to which an https proxy must chain, in place of the
	// system's. It is read at the start.
	ProxyCAFile string `key:"proxy_ca_file" kind:"path"`
}

// CA is `ca`: the authorities that sign. Exactly one of file and set is present.
type CA struct {
	// File is one authority with its key in a file. It excludes set.
	File *CAFile `key:"file"`
	// Set is a CA set (ca.yaml), written by `mayfly ca`. The clock selects the authority in it that
	// signs. It excludes file.
	Set string `key:"set" kind:"path"`
	// SignerSocket is the Unix socket of a `mayfly signer` that holds the keys of set. This process
	// then opens none of them.
	SignerSocket string `key:"signer_socket" kind:"path"`
}

// CAFile is `ca.file`.
type CAFile struct {
	// Chain is a PEM file: the issuing CA first, the root last; the root must be included.
	Chain string `key:"chain" kind:"path" required:"it names the PEM file with the issuing CA first and the root last"`
	// Key is the PEM file of the issuing CA's private key.
	Key string `key:"key" kind:"path" required:"it names the PEM file of the issuing CA's private key"`
	// PasswordFile holds the password of an encrypted key; a newline at its end does not count.
	PasswordFile string `key:"password_file" kind:"path"`
}

// Certificate is `certificate`: the properties of every certificate.
type Certificate struct {
	// Lifetime is the time for which certificates are valid, in whole seconds. Any value except ten minutes causes a warning: clients and
	// verifiers were built for ten minutes, and a longer lifetime extends the use of a stolen key.
	Lifetime time.Duration `key:"lifetime" default:"10m" min:"1m" max:"60m"`
}

// Keys is `keys`: which public keys are certified.
type Keys struct {
	// Algorithms are the permitted ones, out of rsa-2048, rsa-3072, rsa-4096, ecdsa-p256, ecdsa-p384, ecdsa-p521 and
	// ed25519. Without the list, all of them.
	Algorithms []string `key:"algorithms" nonempty:"would certify no key"`
}

// CT is `ct`: the Certificate Transparency logs. Either disabled is set or logs has an entry, so that
// logs are never missing by oversight.
type CT struct {
	// Disabled makes the server issue certificates that are in no log and that most verifiers
	// refuse. It excludes logs.
	Disabled bool `key:"disabled"`
	// Logs are in order of preference. A certificate gets one SCT, from the log that answers first;
	// ct.md states when each log gets a request.
	Logs []CTLog `key:"logs"`
}

// CTLog is an entry of `ct.logs`: a remote log (url and public_key) or an embedded one.
type CTLog struct {
	// URL is the remote log's base URL, to which /ct/v1/add-pre-chain is added. It requires
	// public_key and excludes embedded.
	URL string `key:"url"`
	// PublicKey is the PEM file of the remote log's key. The server verifies every SCT with it before
	// it returns a certificate.
	PublicKey string `key:"public_key" kind:"path"`
	// CAFile is a PEM file of the CA certificates to which the remote log's TLS certificate may chain, in
	// place of the system's. The server reads it again when its content changes.
	CAFile string `key:"ca_file" kind:"path"`
	// TokenFile holds the bearer token that the remote log requires of submitters, as an embedded log
	// of another replica does (submit).
	TokenFile string `key:"token_file" kind:"path"`
	// ActivateAt is the time before which nothing is submitted, so that verifiers can first get the
	// log's key from trusted_root.json. Without it, the log is used at once.
	ActivateAt time.Time `key:"activate_at"`
	// RetireAt is the time from which nothing is submitted. Set it for a log with a limited period;
	// the metric mayfly_ct_log_seconds_to_retirement then shows the remaining time.
	RetireAt time.Time `key:"retire_at"`
	// Embedded excludes url.
	Embedded *embedded.Config `key:"embedded"`
}

// Trust is `trust`: entries that trusted_root.json contains unchanged. Each is a JSON object of the
// form that protobuf-specs defines.
type Trust struct {
	// TimestampAuthorities are timestamp authorities.
	TimestampAuthorities []json.RawMessage `key:"timestamp_authorities"`
	// TLogs are signature logs (Rekor).
	TLogs []json.RawMessage `key:"tlogs"`
}

// Shutdown is `shutdown`: the steps between SIGTERM and the exit (operations.md).
type Shutdown struct {
	// Grace is the time for which the server still serves new connections while readiness fails, so
	// that load balancers can notice.
	Grace time.Duration `key:"grace" default:"0s" min:"0s" max:"1h"`
	// Drain is the time limit for requests in flight after the grace, when the server accepts no new
	// ones.
	Drain time.Duration `key:"drain" default:"20s" min:"1s" max:"1h"`
}

// Log is `log`: the log records on the server's standard error.
type Log struct {
	// Format is the form of records.
	Format string `key:"format" default:"json" oneof:"json text"`
	// Level is the least level that is written.
	Level string `key:"level" default:"info" oneof:"debug info warn error"`
}

// LoadServer reads the server configuration from the file called path, and the MAYFLY_ variables of
// environ, which has the form of os.Environ.
//
// An error is Mistakes, with every mistake of the file and the variables; or it states why the file
// is unreadable. LoadServer returns warnings in both cases; the caller should log them at start.
// Beside Mistakes, the Server has only Log, and is nil unless Log is known: the mistakes can then be
// logged in its format.
func LoadServer(path string, environ []string) (*Server, []error, error) {
	return loaded(path, func(name string, content []byte) (*Server, []error, error) {
		return ParseServer(name, content, environ)
	})
}

// ParseServer is LoadServer for a file that has been read already. Relative paths in it are
// relative to the directory of name; mistakes give name as the file.
func ParseServer(name string, content []byte, environ []string) (*Server, []error, error) {
	d := newDecoder(name)
	s := &Server{File: d.File}
	d.environment(reflect.TypeOf(*s), environ)
	d.read(content, false, s)
	doc, warnings, err := result(d, s)
	if err != nil && s.Log.Format != "" && !d.isEcho([]string{"log", "format"}) && !d.isEcho([]string{"log", "level"}) {
		doc = &Server{Log: s.Log}
	}
	return doc, warnings, err
}

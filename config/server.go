// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Server is the server configuration, the file that `mayfly serve --config` names.
//
// Paths are relative to the file that names them; those of an environment variable, to the
// working directory. LoadServer has resolved them. Every key that holds one value can be
// set by an environment variable instead, named after its path: listen.http is
// MAYFLY_LISTEN_HTTP. A variable counts before the file, an empty one is as if it were not
// set, and lists are set in the file alone.
type Server struct {
	Listen Listen
	TLS    TLS

	// PublicURL is `public_url`: the URL at which clients reach this server, as
	// trusted_root.json and signing_config.v0.2.json are to say it. Without one, which is
	// the default, those two documents are not rendered.
	PublicURL string
	// Issuers is `issuers`: the file of trusted issuers, see Issuers. It must be named. It
	// is read again when its content changes.
	Issuers string
	// Compat is `compat`, false by default. True makes warnings of what the peer tolerates
	// in an issuer file and mayfly finds wrong, such as an unknown key.
	Compat bool

	// TrustedProxies is `trusted_proxies`, a list of networks as CIDRs, empty by default: the
	// proxies in front of this server. Where a request comes from one of them, the rightmost
	// address of X-Forwarded-For that is not a trusted proxy's counts as the client. It decides
	// how lookups are shared between clients, and is in the log. An address without a length is
	// that address alone.
	TrustedProxies []netip.Prefix

	OIDC        OIDC
	CA          CA
	Certificate Certificate
	Keys        Keys
	CT          CT
	Trust       Trust
	Limits      Limits
	Shutdown    Shutdown
	Log         Log

	file *File
	// env has, by the path of a key, the variable that has set it.
	env map[string]string
}

// Listen is `listen`: the addresses, each as host:port. An empty host is every interface.
type Listen struct {
	// HTTP is `listen.http`, 127.0.0.1:5555 by default: the REST API.
	HTTP string
	// GRPC is `listen.grpc`, 127.0.0.1:5554 by default: the gRPC API. If it equals HTTP,
	// both are served on one port, which sigstore-java needs.
	GRPC string
	// Ops is `listen.ops`, 127.0.0.1:2112 by default: metrics and readiness. It
	// is never to be reached by clients, and must differ from the other two.
	Ops string
}

// TLS is `tls`: the certificate of the HTTP and gRPC listeners. Without one, which is the
// default, both speak plain text and something in front of them must terminate TLS.
type TLS struct {
	// Certificate is `tls.certificate`, a PEM file, leaf first. It needs Key.
	Certificate string
	// Key is `tls.key`, the PEM file of its private key. Both files are read again when
	// their content changes.
	Key string
	// Min is `tls.min`, the oldest TLS version accepted: "1.3" by default, or "1.2".
	Min string
}

// OIDC is `oidc`: how providers are reached.
type OIDC struct {
	// AllowLoopback is `oidc.allow_loopback`, false by default. True permits http issuers
	// on loopback addresses. It is for development: whoever can listen on the machine can
	// then be an issuer.
	AllowLoopback bool
	// InsecureHosts is `oidc.insecure_hosts`: names or IP addresses of hosts, without a port, for
	// which http issuers, and private and loopback addresses, are permitted. None by default. It
	// is for development in a private network: any party on the way to such a host can be an
	// issuer. Metadata services of clouds stay refused.
	InsecureHosts []string
	// Proxy is `oidc.proxy`: the http or https URL of a proxy through which issuers are
	// reached; none by default, whatever HTTPS_PROXY says. The proxy looks up the names of
	// issuers, so it must refuse those that lead into the inner network. Entries with
	// allow-private-network, the cluster's own issuer and loopback addresses are reached
	// directly.
	Proxy Secret // it may hold a password
	// KeyRefresh is `oidc.key_refresh`, 15m by default, from 10s to 1h: the age at which an
	// issuer's keys are read anew, and so how long a key that it has withdrawn may still be
	// accepted. An issuer whose answer says max-age for less is asked sooner, each minute at
	// most.
	KeyRefresh time.Duration
	// KeyLifetime is `oidc.key_lifetime`, 24h by default, from key_refresh to 168h: the age at
	// which the keys of an issuer that cannot be reached are trusted no longer, and its tokens
	// refused.
	KeyLifetime time.Duration
	// Kubernetes says how the issuer of the cluster that this server runs in is reached.
	// Neither file is read unless such an issuer is configured.
	Kubernetes Kubernetes
}

// Kubernetes is `oidc.kubernetes`.
type Kubernetes struct {
	// APIServer is `oidc.kubernetes.api_server`: the URL of the cluster's API server, for
	// static issuers of type kubernetes that it serves under other names than
	// https://kubernetes.default.svc and https://kubernetes.default.svc.cluster.local. Those
	// need not be said, and neither need loopback and private IP addresses once
	// https://kubernetes.default.svc is configured. None by default. Other clusters' issuers
	// get no token, and are read like every other issuer.
	APIServer string
	// CAFile is `oidc.kubernetes.ca_file`: the PEM certificates, and the only ones but the
	// entry's own ca-cert, that the API server's certificate may chain up to. By default
	// /var/run/fulcio/ca.crt, where the peer has it. It is read anew for each use.
	CAFile string
	// TokenFile is `oidc.kubernetes.token_file`: the bearer token sent to the API server's
	// origin, and to nobody else. By default
	// /var/run/secrets/kubernetes.io/serviceaccount/token. It is read anew for each use,
	// since Kubernetes replaces it.
	TokenFile string
}

// CA is `ca`: what certificates are signed with. Exactly one of File and Set is there.
type CA struct {
	// File is `ca.file`: one authority whose key lies in a file. It excludes Set.
	File *CAFile
	// Set is `ca.set`: a CA set (ca.yaml), written by `mayfly ca`, of which the clock picks
	// the authority that signs. It excludes File.
	Set string
	// SignerSocket is `ca.signer_socket`: the Unix socket of a `mayfly signer` that holds the
	// keys of Set. This process then opens none of them. By default it opens them itself.
	SignerSocket string
}

// CAFile is `ca.file`.
type CAFile struct {
	// Chain is `ca.file.chain`, a PEM file: the issuing CA first, the root last and
	// included. It must be named.
	Chain string
	// Key is `ca.file.key`: the issuing CA's private key, PEM. It must be named.
	Key string
	// PasswordFile is `ca.file.password_file`: the password of an encrypted key, without
	// the newline at its end. By default the key is not encrypted.
	PasswordFile string
	// Password is the password itself, from the environment variable
	// MAYFLY_CA_FILE_PASSWORD alone: a file that people edit is no place for it. It
	// excludes PasswordFile.
	Password Secret
}

// Certificate is `certificate`: what every certificate is like.
type Certificate struct {
	// Lifetime is `certificate.lifetime`, 10m by default, from 1m to 60m, whole seconds.
	// Another one than ten minutes is warned of: clients and verifiers were built for it,
	// and a longer one lengthens the use of a stolen key.
	Lifetime time.Duration
}

// Keys is `keys`: which public keys are certified.
type Keys struct {
	// Algorithms is `keys.algorithms`, out of rsa-2048, rsa-3072, rsa-4096, ecdsa-p256,
	// ecdsa-p384, ecdsa-p521 and ed25519. All of them by default, which is nil here.
	Algorithms []string
}

// CT is `ct`: the Certificate Transparency logs. Disabled is set or Logs has an entry, and
// never both: no log by oversight.
type CT struct {
	// Disabled is `ct.disabled`, false by default. True issues certificates that no log
	// knows and that most verifiers refuse. It excludes Logs.
	Disabled bool
	// Logs is `ct.logs`, in order of preference. One SCT, of whichever log answers first, goes
	// into a certificate; docs/ct.md says who is asked when.
	Logs []CTLog
}

// CTLog is an entry of `ct.logs`: a remote log (URL and PublicKey) or an embedded one.
type CTLog struct {
	// URL is `url`: the remote log's base URL, to which /ct/v1/add-pre-chain is added. It
	// needs PublicKey and excludes Embedded.
	URL string
	// PublicKey is `public_key`: the PEM file of the remote log's key. It is mandatory,
	// since every SCT is verified before a certificate leaves.
	PublicKey string
	// TokenFile is `token_file`: the bearer token that the remote log wants of submitters,
	// as an embedded log of another replica does (embedded.submit). None by default.
	TokenFile string
	// ActivateAt is `activate_at`: nothing is submitted before, so that verifiers can learn
	// the log's key from trusted_root.json first. By default it is used at once.
	ActivateAt time.Time
	// RetireAt is `retire_at`: nothing is submitted from then on. A log whose period ends
	// has it; the gauge mayfly_ct_log_seconds_to_retirement then tells how long is left.
	RetireAt time.Time
	// Embedded is `embedded`: a log in this process. It excludes URL.
	Embedded *EmbeddedLog
}

// EmbeddedLog is `embedded`: a static-ct-api log in this process. The first five must be
// there; `mayfly ctlog init` makes the key, the directory and the guard.
type EmbeddedLog struct {
	// Name is `name`: the log is served under /ctlog/NAME/. Letters, digits, dots, hyphens
	// and underscores; no other embedded log has it.
	Name string
	// Dir is `dir`: the directory of the log's entries, on a local disk, with one writer.
	Dir string
	// Guard is `guard`: the file that keeps the newest tree head, so that a log restored
	// from a backup is not continued differently. It must lie outside Dir, best on another
	// disk, and never be restored together with it.
	Guard string
	// Key is `key`: the log's own P-256 key, PKCS#8 PEM. It is never a CA's.
	Key string
	// Origin is `origin`: the name of the log in checkpoints, by custom its URL without
	// the scheme.
	Origin string
	// BatchAge is `batch_age`, 10ms by default: how long an entry waits for others to be
	// written with, from 1ms to 1s. Each certificate takes that much longer.
	BatchAge time.Duration
	// CheckpointInterval is `checkpoint_interval`, 1s by default, from 100ms to 10s: how often
	// a new tree head is published.
	CheckpointInterval time.Duration
	// Submit is `submit`: who may submit over HTTP. Nobody by default.
	Submit *Submit
}

// Submit is `submit` of an embedded log.
type Submit struct {
	// TokenFile is `token_file`: the bearer token that a submitter must send. It must be
	// named.
	TokenFile string
}

// Trust is `trust`: entries that trusted_root.json takes over as they are. Each is a JSON
// object of the form that protobuf-specs gives it. None by default.
type Trust struct {
	// TimestampAuthorities is `trust.timestamp_authorities`.
	TimestampAuthorities []json.RawMessage
	// TLogs is `trust.tlogs`.
	TLogs []json.RawMessage
}

// Limits is `limits`: what clients may use at a time (docs/limits.md).
type Limits struct {
	// Connections is `limits.connections`: how many connections the HTTP and gRPC listeners
	// keep open together. 0, the default, derives it from the limit on file descriptors, 2048
	// at most. At the bound, a new connection takes the place of one without a request.
	Connections int
	// Idle is `limits.idle`, 650s by default: how long a connection may stay open without a
	// request. It must be longer than load balancers in front keep idle connections, or
	// requests are lost; 600s is the longest of the common ones.
	Idle time.Duration
	// InFlight is `limits.in_flight`, 512 by default: how many requests are answered at a
	// time. One more is refused with OVERLOADED.
	InFlight int
}

// Shutdown is `shutdown`: what happens between SIGTERM and the end (docs/operations.md).
type Shutdown struct {
	// Grace is `shutdown.grace`, 0s by default: how long the server goes on serving new
	// connections while readiness fails, so that load balancers have time to notice.
	Grace time.Duration
	// Drain is `shutdown.drain`, 20s by default: how long requests in flight may take after
	// the grace, when no new ones are accepted.
	Drain time.Duration
}

// Log is `log`: what the server writes to its standard error.
type Log struct {
	// Format is `log.format`: json, the default, or text.
	Format string
	// Level is `log.level`: debug, info (the default), warn or error.
	Level string
}

// Sets reports whether the file or a variable sets a key, given as its path joined with dots.
func (s *Server) Sets(key string) bool {
	_, inFile := s.find(key)
	return inFile || s.env[key] != ""
}

// File is the file that the configuration was read from.
func (s *Server) File() *File { return s.file }

// Secret is a string that no log and no error shows.
//
// It holds a pointer because package fmt shows the fields of a struct, Formatter or not, when
// a verb does not fit what is around it.
type Secret struct{ value *string }

// Reveal returns the secret itself, "" if there is none.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero tells whether there is none.
func (s Secret) IsZero() bool { return s.value == nil }

const concealed = "(secret)"

// Format writes no part of the secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, concealed) }

// LogValue is what log/slog writes.
func (s Secret) LogValue() slog.Value { return slog.StringValue(concealed) }

// MarshalText is what encoding/json and others write.
func (s Secret) MarshalText() ([]byte, error) { return []byte(concealed), nil }

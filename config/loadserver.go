// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// LoadServer reads the server configuration from the file called path, and the MAYFLY_ variables of
// environ, which has the form of os.Environ.
//
// An error is Mistakes, with every mistake of the file and the variables; or it states why the file
// is unreadable. LoadServer returns warnings in both cases; the caller should log them at start.
func LoadServer(path string, environ []string) (*Server, []Mistake, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return ParseServer(path, content, environ)
}

// ParseServer is LoadServer for a file that has been read already. Relative paths in it are
// relative to the directory of name; mistakes give name as the file.
func ParseServer(name string, content []byte, environ []string) (*Server, []Mistake, error) {
	r := &report{file: name}
	env := newEnvironment(r, environ)
	file, ok := parse(r, content, yamlOnly)
	if !ok {
		warnings, err := r.result()
		return nil, warnings, err
	}
	l := &serverLoader{
		decoder:  &decoder{report: r},
		scalars:  newScalars(r),
		server:   &Server{file: file},
		settings: map[string]setting{},
		values:   map[string]any{},
		dir:      filepath.Dir(name),
	}
	for _, set := range settings() {
		l.settings[set.key] = set
	}
	l.root(file.root)
	if err := l.scalars.fromFile(l.values); err != nil {
		return nil, nil, err
	}
	l.scalars.fromEnvironment(env)
	l.server.env = l.scalars.env
	l.fill()
	l.password(env[envPassword])
	l.check()
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return l.server, warnings, nil
}

// serverLoader reads the server configuration into server.
type serverLoader struct {
	*decoder
	scalars  *scalars
	server   *Server
	settings map[string]setting
	// values has the file's values of settings, by key.
	values map[string]any
	// dir is the directory to which the file's paths are relative.
	dir string
}

func (l *serverLoader) root(n *node) {
	s := l.server
	l.object(
		l.group("listen", l.setting("listen.http"), l.setting("listen.grpc"), l.setting("listen.ops")),
		l.group("tls", l.setting("tls.certificate"), l.setting("tls.key"), l.setting("tls.min")),
		l.setting("public_url"),
		l.setting("issuers"),
		l.setting("compat"),
		field{name: "trusted_proxies", read: l.list(l.trustedProxy)},
		l.group("oidc", l.setting("oidc.allow_loopback"), field{name: "insecure_hosts", read: l.list(l.insecureHost)}, l.setting("oidc.proxy"),
			l.setting("oidc.key_refresh"), l.setting("oidc.key_lifetime"),
			l.group("kubernetes", l.setting("oidc.kubernetes.api_server"), l.setting("oidc.kubernetes.ca_file"), l.setting("oidc.kubernetes.token_file"))),
		l.group("ca", l.setting("ca.set"), l.setting("ca.signer_socket"),
			l.group("file", l.setting("ca.file.chain"), l.setting("ca.file.key"), l.setting("ca.file.password_file"))),
		l.group("certificate", l.setting("certificate.lifetime")),
		l.group("keys", field{name: "algorithms", read: l.texts(&s.Keys.Algorithms)}),
		l.group("ct", l.setting("ct.disabled"), field{name: "logs", read: l.list(l.ctLog)}),
		l.group("trust",
			field{name: "timestamp_authorities", read: l.list(func(_ int, n *node) {
				s.Trust.TimestampAuthorities = append(s.Trust.TimestampAuthorities, nil)
				l.raw(&s.Trust.TimestampAuthorities[len(s.Trust.TimestampAuthorities)-1])(n)
			})},
			field{name: "tlogs", read: l.list(func(_ int, n *node) {
				s.Trust.TLogs = append(s.Trust.TLogs, nil)
				l.raw(&s.Trust.TLogs[len(s.Trust.TLogs)-1])(n)
			})}),
		l.group("limits", l.setting("limits.connections"), l.setting("limits.idle"), l.setting("limits.in_flight")),
		l.group("shutdown", l.setting("shutdown.grace"), l.setting("shutdown.drain")),
		l.group("log", l.setting("log.format"), l.setting("log.level")),
	)(n)
}

// trustedProxy reads an entry of trusted_proxies.
func (l *serverLoader) trustedProxy(_ int, n *node) {
	var text string
	before := len(l.mistakes)
	if l.text(&text)(n); len(l.mistakes) > before {
		return
	}
	prefix, problem := parseNetwork(text)
	switch {
	case problem != "":
		l.mistake(n.at, "%s", problem)
	case prefix.Bits() < 8:
		l.warn(n.at, "%s is more than networks of proxies have: each client in it can forge its own address with X-Forwarded-For", prefix)
	}
	l.server.TrustedProxies = append(l.server.TrustedProxies, prefix)
}

// parseNetwork reads a CIDR, or an address as a network of only that address. IPv4-mapped IPv6 is
// IPv4.
func parseNetwork(text string) (prefix netip.Prefix, problem string) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), ""
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Sprintf("found %q, expected a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32", shorten(text))
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	if prefix != prefix.Masked() {
		return prefix, fmt.Sprintf("%s has bits beyond its length: write %s for the network, or %s/%d for the one address",
			prefix, prefix.Masked(), prefix.Addr(), prefix.Addr().BitLen())
	}
	return prefix, ""
}

// group is a key with keys below it.
func (l *serverLoader) group(name string, fields ...field) field {
	return field{name: name, read: l.object(fields...)}
}

// setting is the field of a key that holds one value. A null leaves the default.
func (l *serverLoader) setting(key string) field {
	set := l.settings[key]
	return field{name: key[strings.LastIndexByte(key, '.')+1:], read: func(n *node) {
		value, ok := l.value(set, n)
		if !ok {
			return
		}
		if set.path {
			value = l.resolve(value.(string))
		}
		l.values[key] = value
	}}
}

// value reads a value of the setting's type; ok is false if there is none, or an invalid one.
func (l *serverLoader) value(set setting, n *node) (value any, ok bool) {
	if n.isNull() {
		return nil, false
	}
	before := len(l.mistakes)
	var text string
	switch set.fallback.(type) {
	case bool:
		var b bool
		l.flag(&b)(n)
		return b, len(l.mistakes) == before
	case int, time.Duration:
		text = n.value // also of a number, even for a duration: the mistake is then the missing unit
		if n.kind != scalar {
			l.text(&text)(n)
		}
	default:
		l.text(&text)(n)
	}
	if len(l.mistakes) > before {
		return nil, false
	}
	value, problem := set.parse(text)
	if problem != "" {
		l.mistake(n.at, "%s", problem)
	}
	return value, problem == ""
}

// resolve resolves a path from the file: it becomes absolute, or relative to the directory to which
// the file's own name is relative.
func (l *serverLoader) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(l.dir, path)
}

// pathText reads the name of a file.
func (l *serverLoader) pathText(into *string) reader {
	return func(n *node) {
		l.text(into)(n)
		*into = l.resolve(*into)
	}
}

// duration reads a duration with its unit.
func (l *serverLoader) duration(into *time.Duration) reader {
	return func(n *node) {
		if value, ok := l.value(setting{fallback: *into}, n); ok {
			*into = value.(time.Duration)
		}
	}
}

// ctLog reads an entry of ct.logs.
func (l *serverLoader) ctLog(_ int, n *node) {
	var c CTLog
	l.object(
		field{name: "url", read: l.text(&c.URL)},
		field{name: "public_key", read: l.pathText(&c.PublicKey)},
		field{name: "token_file", read: l.pathText(&c.TokenFile)},
		field{name: "activate_at", read: l.time(&c.ActivateAt)},
		field{name: "retire_at", read: l.time(&c.RetireAt)},
		field{name: "embedded", read: func(n *node) {
			c.Embedded = &EmbeddedLog{BatchAge: 10 * time.Millisecond, CheckpointInterval: time.Second}
			l.embedded(c.Embedded)(n)
		}},
	)(n)
	l.server.CT.Logs = append(l.server.CT.Logs, c)
}

func (l *serverLoader) embedded(e *EmbeddedLog) reader {
	return l.object(
		field{name: "name", read: l.text(&e.Name)},
		field{name: "dir", read: l.pathText(&e.Dir)},
		field{name: "guard", read: l.pathText(&e.Guard)},
		field{name: "key", read: l.pathText(&e.Key)},
		field{name: "origin", read: l.text(&e.Origin)},
		field{name: "batch_age", read: l.duration(&e.BatchAge)},
		field{name: "checkpoint_interval", read: l.duration(&e.CheckpointInterval)},
		field{name: "submit", read: func(n *node) {
			e.Submit = &Submit{}
			l.object(field{name: "token_file", read: l.pathText(&e.Submit.TokenFile)})(n)
		}},
	)
}

// fill copies the values of settings from viper.
func (l *serverLoader) fill() {
	v, s := l.scalars.viper, l.server
	s.Listen = Listen{HTTP: v.GetString("listen.http"), GRPC: v.GetString("listen.grpc"), Ops: v.GetString("listen.ops")}
	s.TLS = TLS{Certificate: v.GetString("tls.certificate"), Key: v.GetString("tls.key"), Min: v.GetString("tls.min")}
	s.PublicURL = v.GetString("public_url")
	s.Issuers = v.GetString("issuers")
	s.Compat = v.GetBool("compat")
	s.OIDC = OIDC{
		AllowLoopback: v.GetBool("oidc.allow_loopback"),
		InsecureHosts: s.OIDC.InsecureHosts,
		KeyRefresh:    v.GetDuration("oidc.key_refresh"),
		KeyLifetime:   v.GetDuration("oidc.key_lifetime"),
		Kubernetes: Kubernetes{
			APIServer: v.GetString("oidc.kubernetes.api_server"),
			CAFile:    v.GetString("oidc.kubernetes.ca_file"),
			TokenFile: v.GetString("oidc.kubernetes.token_file"),
		},
	}
	if proxy := v.GetString("oidc.proxy"); proxy != "" {
		s.OIDC.Proxy = Secret{&proxy}
	}
	file := CAFile{
		Chain:        v.GetString("ca.file.chain"),
		Key:          v.GetString("ca.file.key"),
		PasswordFile: v.GetString("ca.file.password_file"),
	}
	if _, written := l.find("ca.file"); written || file != (CAFile{}) {
		s.CA.File = &file
	}
	s.CA.Set = v.GetString("ca.set")
	s.CA.SignerSocket = v.GetString("ca.signer_socket")
	s.Certificate.Lifetime = v.GetDuration("certificate.lifetime")
	s.CT.Disabled = v.GetBool("ct.disabled")
	s.Limits = Limits{Connections: v.GetInt("limits.connections"), Idle: v.GetDuration("limits.idle"), InFlight: v.GetInt("limits.in_flight")}
	s.Shutdown = Shutdown{Grace: v.GetDuration("shutdown.grace"), Drain: v.GetDuration("shutdown.drain")}
	s.Log = Log{Format: v.GetString("log.format"), Level: v.GetString("log.level")}
}

// password sets the CA key's password, which only the environment can hold.
func (l *serverLoader) password(value string) {
	if value == "" {
		return
	}
	if l.server.CA.File == nil {
		l.warnings = append(l.warnings, Mistake{File: envPassword, Text: "it is set, but no ca.file is there to need it"})
		return
	}
	l.server.CA.File.Password = Secret{&value}
}

// find returns the pair of a key of the file, given as its path joined with dots.
func (l *serverLoader) find(key string) (pair, bool) { return l.server.find(key) }

func (s *Server) find(key string) (pair, bool) {
	n := s.file.root
	var p pair
	for name := range strings.SplitSeq(key, ".") {
		if n.kind != mapping {
			return pair{}, false
		}
		found, ok := n.lookup(name)
		if !ok || found.value.isNull() {
			return pair{}, false
		}
		p, n = found, found.value
	}
	return p, true
}

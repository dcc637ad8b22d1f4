// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Explain maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file, or to the environment variable that has set the key. It returns them as Mistakes; nil
// for nil. Paths begin at the file's root, as in ["ca", "file", "chain"].
func (s *Server) Explain(err error) error { return s.mistakes(err).asError() }

func (s *Server) mistakes(err error) Mistakes {
	var mistakes Mistakes
	for _, e := range keypath.All(err) {
		if name, ok := s.env[strings.Join(e.Path, ".")]; ok {
			mistakes = append(mistakes, Mistake{File: name, Text: e.Err.Error()})
			continue
		}
		mistakes = append(mistakes, s.file.Mistakes(e)...)
	}
	return mistakes
}

// wrong records a mistake at a key, given as its path joined with dots.
func (l *serverLoader) wrong(key, format string, args ...any) {
	err := keypath.Errorf(strings.Split(key, "."), format, args...)
	l.mistakes = append(l.mistakes, l.server.mistakes(err)...)
}

// caution records a warning at a key.
func (l *serverLoader) caution(key, format string, args ...any) {
	err := keypath.Errorf(strings.Split(key, "."), format, args...)
	l.warnings = append(l.warnings, l.server.mistakes(err)...)
}

// check reports mistakes that need several keys: required keys and mutually exclusive ones.
func (l *serverLoader) check() {
	l.checkListen()
	l.checkTLS()
	if u := l.server.PublicURL; u != "" {
		if problem := baseURL(u); problem != "" {
			l.wrong("public_url", "%s", problem)
		}
	}
	if l.server.Issuers == "" && l.valid("issuers") {
		l.wrong("issuers", "issuers is missing: it names the file of trusted issuers")
	}
	l.checkOIDC()
	l.checkCA()
	l.checkLifetime()
	if p, ok := l.find("keys.algorithms"); ok && p.value.kind == sequence && len(p.value.items) == 0 {
		l.wrong("keys.algorithms", "the list is empty, so that no key at all would be certified; leave it out to permit all")
	}
	l.checkCT()
	l.checkLimits()
}

// checkLimits reports limits that no server can have. The server itself checks how many connections
// the limit on file descriptors permits.
func (l *serverLoader) checkLimits() {
	limits, shutdown := l.server.Limits, l.server.Shutdown
	switch {
	case limits.Connections < 0:
		l.wrong("limits.connections", "found %d, where 0 or a positive number is expected; 0 derives it from the limit on file descriptors", limits.Connections)
	case limits.Connections > 0 && limits.Connections < limits.InFlight:
		l.wrong("limits.connections", "found %d, which is less than limits.in_flight (%d): each request needs a connection of its own", limits.Connections, limits.InFlight)
	}
	if limits.InFlight < 1 {
		l.wrong("limits.in_flight", "found %d, where a positive number is expected", limits.InFlight)
	}
	for _, d := range []struct {
		key             string
		value, min, max time.Duration
	}{
		{"limits.idle", limits.Idle, time.Second, 24 * time.Hour},
		{"shutdown.grace", shutdown.Grace, 0, time.Hour},
		{"shutdown.drain", shutdown.Drain, time.Second, time.Hour},
	} {
		if d.value < d.min || d.value > d.max {
			l.wrong(d.key, "found %s, where %s to %s is expected", d.value, d.min, d.max)
		}
	}
}

// valid reports whether no mistake at a key has been found before, so that each mistake is reported
// once.
func (l *serverLoader) valid(key string) bool {
	_, written := l.find(key)
	_, taken := l.values[key]
	return !written || taken
}

func (l *serverLoader) checkListen() {
	s := l.server.Listen
	for _, a := range []struct{ key, address string }{
		{"listen.http", s.HTTP}, {"listen.grpc", s.GRPC}, {"listen.ops", s.Ops},
	} {
		_, port, err := net.SplitHostPort(a.address)
		if number, numberErr := strconv.ParseUint(port, 10, 16); err != nil || numberErr != nil {
			l.wrong(a.key, "found %q, where host:port with a numeric port is wanted", shorten(a.address))
		} else if number != 0 && a.key == "listen.ops" && (a.address == s.HTTP || a.address == s.GRPC) {
			l.wrong(a.key, "the address %s is also the API's, whose clients must not reach metrics and the causes of failures: it needs a port of its own", a.address)
		}
		for _, other := range []string{s.HTTP, s.GRPC} {
			if a.key != "listen.http" && a.address != other && overlap(a.address, other) {
				l.wrong(a.key, "%s and the other listener's %s exclude each other: an address of every interface needs a port of its own", a.address, other)
			}
		}
	}
}

// overlap reports whether two addresses have the same port, and the same host or every interface.
// Each of "", 0.0.0.0 and :: is every interface, for IPv4 and IPv6 together.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	every := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return host == "" || err == nil && ip.IsUnspecified()
	}
	number, err := strconv.ParseUint(portA, 10, 16)
	return err == nil && number != 0 && portA == portB && (hostA == hostB || every(hostA) || every(hostB))
}

func (l *serverLoader) checkTLS() {
	t := l.server.TLS
	switch {
	case t.Certificate != "" && t.Key == "" && l.valid("tls.key"):
		l.wrong("tls.key", "tls.certificate is there without tls.key, the file of its private key")
	case t.Key != "" && t.Certificate == "" && l.valid("tls.certificate"):
		l.wrong("tls.certificate", "tls.key is there without tls.certificate, the file of the certificate")
	}
}

func (l *serverLoader) checkCA() {
	if p, ok := l.find("ca.file"); ok && p.value.kind != mapping {
		return // reported already
	}
	file, set := l.server.CA.File, l.server.CA.Set
	if l.server.CA.SignerSocket != "" && set == "" && l.valid("ca.set") {
		l.wrong("ca.signer_socket", "ca.signer_socket is for the keys of a CA set: name it with ca.set")
	}
	switch {
	case file != nil && set != "":
		l.wrong("ca.set", "ca.file and ca.set exclude each other: keep the one that holds the authority")
	case file == nil && set == "" && l.valid("ca.set"):
		l.wrong("ca", "no certificate authority: name one with ca.file (chain and key) or a CA set with ca.set")
	case file != nil:
		if file.Chain == "" && l.valid("ca.file.chain") {
			l.wrong("ca.file.chain", "ca.file.chain is missing: it names the PEM file with the issuing CA first and the root last")
		}
		if file.Key == "" && l.valid("ca.file.key") {
			l.wrong("ca.file.key", "ca.file.key is missing: it names the PEM file of the issuing CA's private key")
		}
		if file.PasswordFile != "" && !file.Password.IsZero() {
			l.wrong("ca.file.password_file", "ca.file.password_file and the environment variable %s exclude each other", envPassword)
		}
	}
}

func (l *serverLoader) checkLifetime() {
	const least, usual, most = time.Minute, 10 * time.Minute, time.Hour
	switch d := l.server.Certificate.Lifetime; {
	case d < least || d > most:
		l.wrong("certificate.lifetime", "found %s, where a lifetime from 1m to 60m is wanted", d)
	case d%time.Second != 0:
		l.wrong("certificate.lifetime", "found %s, where whole seconds are wanted: certificates know no smaller unit", d)
	case d != usual:
		l.caution("certificate.lifetime", "certificates last %s and not the ten minutes that clients and verifiers were built for", d)
	}
}

func (l *serverLoader) checkCT() {
	c := l.server.CT
	switch {
	case c.Disabled && len(c.Logs) > 0:
		l.wrong("ct.disabled", "ct.disabled and ct.logs exclude each other: remove the one that is not meant")
	case c.Disabled:
		l.caution("ct.disabled", "Certificate Transparency is disabled: certificates are issued that no log knows and that most verifiers refuse")
	case len(c.Logs) == 0 && l.validLogs():
		l.wrong("ct", "no Certificate Transparency log: list one under ct.logs, or say ct: {disabled: true} to issue certificates that no log knows")
	}
	for i := range c.Logs {
		l.checkLog(i)
	}
	l.unique("url", func(c CTLog) string { return strings.TrimRight(c.URL, "/") })
	l.unique("embedded.name", func(c CTLog) string { return c.embedded().Name })
	l.unique("embedded.dir", func(c CTLog) string { return c.embedded().Dir })
	l.unique("embedded.guard", func(c CTLog) string { return c.embedded().Guard })
	l.unique("embedded.key", func(c CTLog) string { return c.embedded().Key })
}

// validLogs reports whether ct.logs is absent or a list.
func (l *serverLoader) validLogs() bool {
	p, ok := l.find("ct.logs")
	return !ok || p.value.kind == sequence
}

// embedded returns the embedded log, or one without any value.
func (c CTLog) embedded() EmbeddedLog {
	if c.Embedded == nil {
		return EmbeddedLog{}
	}
	return *c.Embedded
}

// unique records values that two logs share.
func (l *serverLoader) unique(key string, value func(CTLog) string) {
	first := map[string]int{}
	for i, c := range l.server.CT.Logs {
		v := value(c)
		if v == "" {
			continue
		}
		if j, ok := first[v]; ok {
			l.wrong(logKey(i, key), "%q is also that of log %d in this list", shorten(v), j+1)
			continue
		}
		first[v] = i
	}
}

func logKey(i int, key string) string { return fmt.Sprintf("ct.logs.%d.%s", i, key) }

// checkLog checks one entry of ct.logs.
func (l *serverLoader) checkLog(i int) {
	c := l.server.CT.Logs[i]
	p, _ := l.find("ct.logs")
	if n := p.value.items[i]; n.kind != mapping {
		if n.isNull() {
			l.wrong(fmt.Sprintf("ct.logs.%d", i), "the entry is empty: a log has a url and a public_key, or is embedded")
		}
		return // reported already
	}
	switch {
	case c.URL != "" && c.Embedded != nil:
		l.wrong(logKey(i, "embedded"), "url and embedded exclude each other: a log is remote or in this process, and two logs are two entries")
	case c.URL == "" && c.Embedded == nil:
		l.wrong(logKey(i, "url"), "the log has neither a url, for a remote log, nor embedded, for one in this process")
	case c.Embedded != nil:
		if c.TokenFile != "" {
			l.wrong(logKey(i, "token_file"), "token_file is a remote log's: an embedded log in this process takes entries without one")
		}
		if c.PublicKey != "" {
			l.wrong(logKey(i, "public_key"), "public_key is a remote log's: an embedded log has its key in embedded.key")
		}
		l.checkEmbedded(i, c.Embedded)
	default:
		if problem := baseURL(c.URL); problem != "" {
			l.wrong(logKey(i, "url"), "%s", problem)
		}
		if c.PublicKey == "" {
			l.wrong(logKey(i, "public_key"), "the key is mandatory: public_key names the PEM file of the log's key, with which every SCT is verified")
		}
	}
}

// checkEmbedded checks that all keys are present; package ctlog/embedded checks the values.
func (l *serverLoader) checkEmbedded(i int, e *EmbeddedLog) {
	for _, must := range []struct{ key, value, what string }{
		{"name", e.Name, "the path under which the log is served"},
		{"dir", e.Dir, "the directory of its entries"},
		{"guard", e.Guard, "the file that keeps its newest tree head"},
		{"key", e.Key, "the file of its private key"},
		{"origin", e.Origin, "its name in checkpoints"},
	} {
		if must.value == "" {
			l.wrong(logKey(i, "embedded."+must.key), "embedded.%s is missing: it is %s", must.key, must.what)
		}
	}
	for key, value := range map[string]time.Duration{"embedded.batch_age": e.BatchAge, "embedded.checkpoint_interval": e.CheckpointInterval} {
		if value == 0 { // package embedded reads it as the default
			l.wrong(logKey(i, key), "found 0s, where a duration above zero is expected")
		}
	}
	if e.Submit != nil && e.Submit.TokenFile == "" {
		l.wrong(logKey(i, "embedded.submit"), "embedded.submit.token_file is missing: without submit, no client may submit over HTTP; with it, clients with the token may")
	}
}

// baseURL states what is wrong with the URL of a server, or returns "".
func baseURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Sprintf("found %q, which is no URL", shorten(text))
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return fmt.Sprintf("found %q, where an https URL is wanted", shorten(text))
	case cmp.Or(u.RawQuery, u.Fragment) != "" || u.ForceQuery || u.User != nil:
		return "the URL has a query, a fragment or user information, and must have none" // user information may be a secret
	default:
		return ""
	}
}

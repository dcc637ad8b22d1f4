// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// WithPlaces maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file, or to the environment variable that has set the key. It returns them as Mistakes; nil
// for nil. Paths begin at the file's root, as in ["ca", "file", "chain"].
func (s *Server) WithPlaces(err error) error { return s.mistakes(err).asError() }

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

// serverChecks are the checks of the server configuration that need more than one key, or more than
// tags state.
type serverChecks struct {
	checks
	*Server
}

// at reports a mistake at a key, given as its path joined with dots.
func (c *serverChecks) at(key, format string, args ...any) {
	c.wrong(strings.Split(key, "."), format, args...)
}

// warnAt reports a warning at a key.
func (c *serverChecks) warnAt(key, format string, args ...any) {
	c.caution(strings.Split(key, "."), format, args...)
}

func (c *serverChecks) all() {
	c.tags(reflect.ValueOf(c.Server).Elem(), nil)
	c.listen()
	switch t := c.TLS; {
	case t.Certificate != "" && t.Key == "":
		c.at("tls.key", "tls.certificate requires tls.key, the file of its private key")
	case t.Key != "" && t.Certificate == "":
		c.at("tls.certificate", "tls.key requires tls.certificate, the file of the certificate")
	}
	if c.PublicURL != "" {
		if problem := baseURL(c.PublicURL); problem != "" {
			c.at("public_url", "%s", problem)
		}
	}
	for i, prefix := range c.TrustedProxies {
		if prefix.IsValid() && prefix.Bits() < 8 {
			c.warnAt("trusted_proxies."+strconv.Itoa(i), "%s is more than networks of proxies have: each client in it can forge its own address with X-Forwarded-For", prefix)
		}
	}
	c.oidc()
	c.ca()
	switch d := c.Certificate.Lifetime; {
	case d%time.Second != 0:
		c.at("certificate.lifetime", "found %s, expected whole seconds: certificates have no smaller unit", d)
	case d != 10*time.Minute:
		c.warnAt("certificate.lifetime", "certificates are valid for %s and not for the ten minutes that clients and verifiers were built for", d)
	}
	if l := c.Limits; l.Connections > 0 && l.Connections < l.InFlight {
		c.at("limits.connections", "found %d, which is less than limits.in_flight (%d): each request needs a connection of its own", l.Connections, l.InFlight)
	}
	c.ct()
}

func (c *serverChecks) listen() {
	s := c.Listen
	for _, a := range []struct{ key, address string }{
		{"listen.http", s.HTTP}, {"listen.grpc", s.GRPC}, {"listen.ops", s.Ops},
	} {
		_, port, err := net.SplitHostPort(a.address)
		if number, numberErr := strconv.ParseUint(port, 10, 16); err != nil || numberErr != nil {
			c.at(a.key, "found %q, expected host:port with a numeric port", shorten(a.address))
		} else if number != 0 && a.key == "listen.ops" && (a.address == s.HTTP || a.address == s.GRPC) {
			c.at(a.key, "the address %s is also that of the API, whose clients must not reach metrics and the causes of failures: use another port", a.address)
		}
		for _, other := range []string{s.HTTP, s.GRPC} {
			if a.key != "listen.http" && a.address != other && overlap(a.address, other) {
				c.at(a.key, "%s and the other listener's %s exclude each other: an address of every interface needs another port", a.address, other)
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

func (c *serverChecks) oidc() {
	o := c.OIDC
	if o.AllowLoopback {
		c.warnAt("oidc.allow_loopback", "any program that can listen on a loopback address of this machine can be an issuer: for development only")
	}
	if len(o.InsecureHosts) > 0 {
		c.warnAt("oidc.insecure_hosts", "any party on the network between this server and %s can be an issuer: for development only", strings.Join(o.InsecureHosts, ", "))
	}
	for i, host := range o.InsecureHosts {
		u, err := url.Parse("http://" + host)
		if _, notIP := netip.ParseAddr(host); notIP != nil && (err != nil || u.Hostname() != host || strings.Contains(host, "*")) {
			c.at("oidc.insecure_hosts."+strconv.Itoa(i), "found %q; the name or IP address of one host is expected, without a scheme, port, path or *", shorten(host))
		}
	}
	if !o.Proxy.IsZero() {
		u, err := url.Parse(o.Proxy.Reveal())
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			// The value may hold a password.
			c.at("oidc.proxy", "the value is not of the form http://host:port, https://host:port, or the same with a user name and password")
		}
	}
	if o.KeyLifetime >= 10*time.Second && o.KeyLifetime < o.KeyRefresh {
		c.at("oidc.key_lifetime", "found %s, expected at least key_refresh (%s)", o.KeyLifetime, o.KeyRefresh)
	}
	if server := o.Kubernetes.APIServer; server != "" && (!strings.HasPrefix(server, "https://") || baseURL(server) != "") {
		c.at("oidc.kubernetes.api_server", "found %q, expected an https URL", shorten(server))
	}
}

func (c *serverChecks) ca() {
	switch file, set := c.CA.File, c.CA.Set; {
	case file != nil && set != "":
		c.at("ca.set", "ca.file and ca.set exclude each other: keep the one that holds the authority")
	case c.CA.SignerSocket != "" && set == "":
		c.at("ca.signer_socket", "ca.signer_socket is for the keys of a CA set: name it with ca.set")
	case file == nil && set == "":
		c.at("ca", "no certificate authority: name one with ca.file (chain and key) or a CA set with ca.set")
	}
}

func (c *serverChecks) ct() {
	switch ct := c.CT; {
	case ct.Disabled && len(ct.Logs) > 0:
		c.at("ct.disabled", "ct.disabled and ct.logs exclude each other: remove the one that is not meant")
	case ct.Disabled:
		c.warnAt("ct.disabled", "Certificate Transparency is disabled: certificates are issued that are in no log and that most verifiers refuse")
	case len(ct.Logs) == 0:
		c.at("ct.logs", "no Certificate Transparency log: list one under ct.logs, or write ct: {disabled: true} to issue certificates that are in no log")
	}
	for i, log := range c.CT.Logs {
		c.log(fmt.Sprintf("ct.logs.%d", i), log)
	}
	c.unique("url", func(l CTLog) string { return strings.TrimRight(l.URL, "/") })
	c.unique("embedded.name", func(l CTLog) string { return l.embedded().Name })
	c.unique("embedded.dir", func(l CTLog) string { return l.embedded().Dir })
	c.unique("embedded.guard", func(l CTLog) string { return l.embedded().Guard })
	c.unique("embedded.key", func(l CTLog) string { return l.embedded().Key })
}

// embedded returns the embedded log, or one without any value.
func (l CTLog) embedded() embedded.Config {
	if l.Embedded == nil {
		return embedded.Config{}
	}
	return *l.Embedded
}

// unique reports values that two logs share.
func (c *serverChecks) unique(key string, value func(CTLog) string) {
	first := map[string]int{}
	for i, log := range c.CT.Logs {
		v := value(log)
		if j, ok := first[v]; ok && v != "" {
			c.at(fmt.Sprintf("ct.logs.%d.%s", i, key), "%q is also that of log %d in this list", shorten(v), j+1)
			continue
		}
		first[v] = i
	}
}

// log checks one entry of ct.logs; package ctlog/embedded checks the values of an embedded log.
func (c *serverChecks) log(key string, log CTLog) {
	switch {
	case log.URL != "" && log.Embedded != nil:
		c.at(key+".embedded", "url and embedded exclude each other: a log is remote or in this process, and two logs are two entries")
	case log.URL == "" && log.Embedded == nil:
		c.at(key+".url", "the log has neither a url, for a remote log, nor embedded, for one in this process")
	case log.Embedded != nil && log.TokenFile != "":
		c.at(key+".token_file", "token_file is for a remote log: an embedded log in this process takes entries without one")
	case log.Embedded != nil && log.PublicKey != "":
		c.at(key+".public_key", "public_key is for a remote log: an embedded log has its key in embedded.key")
	case log.Embedded == nil:
		if problem := baseURL(log.URL); problem != "" {
			c.at(key+".url", "%s", problem)
		}
		if log.PublicKey == "" {
			c.at(key+".public_key", "public_key is missing: it names the PEM file of the log's key, with which every SCT is verified")
		}
	}
}

// baseURL states what is wrong with the URL of a server, or returns "".
func baseURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Sprintf("found %q, which is no URL", shorten(text))
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return fmt.Sprintf("found %q, expected an https URL", shorten(text))
	case cmp.Or(u.RawQuery, u.Fragment) != "" || u.ForceQuery || u.User != nil:
		return "the URL has a query, a fragment or user information, and must have none" // user information may be a secret
	default:
		return ""
	}
}

// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/server/trace"
)

func (s *Server) check(d *decoder, _ []string) {
	if s.PublicURL != "" {
		d.baseURL([]string{"public_url"}, s.PublicURL)
	}
	for i, prefix := range s.TrustedProxies {
		if prefix.IsValid() && prefix.Bits() < 8 {
			d.caution([]string{"trusted_proxies", strconv.Itoa(i)}, "%s is more than networks of proxies have: each client in it can forge its own address with X-Forwarded-For", prefix)
		}
	}
	for _, e := range keypath.All(ratelimit.Check(s.RateLimits)) {
		d.wrong(join([]string{"rate_limits"}, e.Path...), "%s", e.Err)
	}
	if len(s.Listen.ProxyProtocol) > 0 && len(s.TrustedProxies) == 0 {
		d.wrong([]string{"listen", "proxy_protocol"}, "trusted_proxies is empty, so no connection would be accepted: list the proxies there")
	}
	if l := s.Limits; l.Connections > 0 && l.Connections < l.InFlight {
		d.wrong([]string{"limits", "connections"}, "found %d, which is less than limits.in_flight (%d): each request needs a connection of its own", l.Connections, l.InFlight)
	}
	if s.Audit != nil && s.Audit.Identity == "hmac" { // the rest is found with the content of the key
		for _, e := range keypath.All(audit.CheckSettings(*s.Audit)) {
			d.wrong(join([]string{"audit"}, e.Path...), "%s", e.Err)
		}
	}
	if s.Trace != nil {
		d.checkTrace(s.Trace, []string{"trace"})
	}
	d.hosts([]string{"ops", "hosts"}, s.Ops.Hosts)
}

func (d *decoder) checkTrace(t *trace.Config, path []string) {
	if !(t.Ratio > 0 && t.Ratio <= 1) { // not a number is neither
		d.wrong(join(path, "ratio"), "found %v, expected a number above 0 and at most 1; without the key trace, there are no traces", t.Ratio)
	}
	if t.Endpoint == "" {
		return
	}
	at := join(path, "endpoint")
	d.baseURL(at, t.Endpoint)
	u, err := url.Parse(t.Endpoint)
	switch {
	case err != nil: // reported
	case !isPort(u.Port()) || u.Hostname() == "" || strings.Contains(u.Host, "%") || strings.Trim(u.Path, "/") != "": // gRPC takes no zone
		d.wrong(at, "found %q, expected an https URL with a port and no path, such as https://otel.example:4317", shorten(t.Endpoint))
	case u.Scheme == "https" || httputil.IsLoopback(u.Hostname()):
	case t.HeadersFile != "":
		d.wrong(at, "the collector gets headers_file without TLS, where others could read it; use https")
	default:
		d.caution(at, "the collector %s is reached without TLS: others could read which issuers are used, and when; use https unless the network between is yours alone", u.Host)
	}
}

func isPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// hosts reports the entries of a list of names of hosts that are none.
func (d *decoder) hosts(path, hosts []string) {
	for i, host := range hosts {
		u, err := url.Parse("http://" + host)
		if _, notIP := netip.ParseAddr(host); notIP != nil && (err != nil || u.Hostname() != host || strings.Contains(host, "*")) {
			d.wrong(join(path, strconv.Itoa(i)), "found %q; the name or IP address of one host is expected, without a scheme, port, path or *", shorten(host))
		}
	}
}

func (l *Listen) check(d *decoder, path []string) {
	for i, name := range l.ProxyProtocol {
		at := join(path, "proxy_protocol", strconv.Itoa(i))
		switch {
		case name != "http" && name != "grpc":
			d.wrong(at, "found %q, expected http or grpc", shorten(name))
		case name == "grpc" && l.GRPC == l.HTTP:
			d.wrong(at, "grpc and http have one port: write http alone, which is for both")
		case slices.Contains(l.ProxyProtocol[:i], name):
			d.wrong(at, "%s is in this list twice", name)
		}
	}
	for _, a := range []struct{ key, address string }{{"http", l.HTTP}, {"grpc", l.GRPC}, {"ops", l.Ops}} {
		at := join(path, a.key)
		_, port, err := net.SplitHostPort(a.address)
		if number, numberErr := strconv.ParseUint(port, 10, 16); err != nil || numberErr != nil {
			d.wrong(at, "found %q, expected host:port with a numeric port", shorten(a.address))
		} else if number != 0 && a.key == "ops" && (a.address == l.HTTP || a.address == l.GRPC) {
			d.wrong(at, "the address %s is also that of the API, whose clients must not reach metrics and the causes of failures: use another port", a.address)
		}
		for _, other := range []string{l.HTTP, l.GRPC} {
			if a.key != "http" && a.address != other && overlap(a.address, other) {
				d.wrong(at, "%s and the other listener's %s exclude each other: an address of every interface needs another port", a.address, other)
			}
		}
	}
}

func (t *TLS) check(d *decoder, path []string) {
	if t.Certificate != "" && t.Key == "" {
		d.wrong(join(path, "key"), "tls.certificate requires tls.key, the file of its private key")
	} else if t.Key != "" && t.Certificate == "" {
		d.wrong(join(path, "certificate"), "tls.key requires tls.certificate, the file of the certificate")
	}
}

func (c *CA) check(d *decoder, path []string) {
	switch {
	case c.File != nil && c.Set != "":
		d.wrong(join(path, "set"), "ca.file and ca.set exclude each other: keep the one that holds the authority")
	case c.SignerSocket != "" && c.Set == "":
		d.wrong(join(path, "signer_socket"), "ca.signer_socket is for the keys of a CA set: name it with ca.set")
	case c.File == nil && c.Set == "":
		d.wrong(path, "no certificate authority: name one with ca.file (chain and key) or a CA set with ca.set")
	}
}

func (c *Certificate) check(d *decoder, path []string) {
	if at := join(path, "lifetime"); c.Lifetime%time.Second != 0 {
		d.wrong(at, "found %s, expected whole seconds: certificates have no smaller unit", c.Lifetime)
	} else if c.Lifetime != 10*time.Minute {
		d.caution(at, "certificates are valid for %s and not for the ten minutes that clients and verifiers were built for", c.Lifetime)
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

func (o *OIDC) check(d *decoder, path []string) {
	if o.AllowLoopback {
		d.caution(join(path, "allow_loopback"), "any program that can listen on a loopback address of this machine can be an issuer: for development only")
	}
	if len(o.InsecureHosts) > 0 {
		d.caution(join(path, "insecure_hosts"), "any party on the network between this server and %s can be an issuer: for development only", strings.Join(o.InsecureHosts, ", "))
	}
	d.hosts(join(path, "insecure_hosts"), o.InsecureHosts)
	if proxy := o.Proxy.Reveal(); proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			// The value may hold a password.
			d.wrong(join(path, "proxy"), "the value is not of the form http://host:port, https://host:port, or the same with a user name and password")
		}
	}
	if o.ProxyCAFile != "" && !strings.HasPrefix(strings.ToLower(o.Proxy.Reveal()), "https://") {
		d.wrong(join(path, "proxy_ca_file"), "it has no effect without a proxy with an https URL")
	}
	if o.KeyLifetime < o.KeyRefresh {
		d.wrong(join(path, "key_lifetime"), "found %s, expected at least key_refresh (%s)", o.KeyLifetime, o.KeyRefresh)
	}
	if api := o.Kubernetes.APIServer; strings.HasPrefix(api, "http://") {
		d.wrong(join(path, "kubernetes", "api_server"), "found %q, expected an https URL", shorten(api))
	} else if api != "" {
		d.baseURL(join(path, "kubernetes", "api_server"), api)
	}
}

// ofReplica reports whether url is where a mayfly serves an embedded log: …/ctlog/NAME.
func ofReplica(url string) bool { return path.Base(path.Dir(strings.TrimRight(url, "/"))) == "ctlog" }

func (c *CT) check(d *decoder, path []string) {
	switch {
	case c.Disabled && len(c.Logs) > 0:
		d.wrong(join(path, "disabled"), "ct.disabled and ct.logs exclude each other: remove the one that is not meant")
	case c.Disabled:
		d.caution(join(path, "disabled"), "Certificate Transparency is disabled: certificates are issued that are in no log and that most verifiers refuse")
	case len(c.Logs) == 0:
		d.wrong(join(path, "logs"), "no Certificate Transparency log: list one under ct.logs, or write ct: {disabled: true} to issue certificates that are in no log")
	case len(c.Logs) == 1 && ofReplica(c.Logs[0].URL):
		d.caution(join(path, "logs", "0", "url"), "the only log is one that another mayfly keeps: while that server is down, every request here is refused with CT_UNAVAILABLE; add an embedded log of this server's own, or another remote one (docs/ha.md)")
	}
	first := map[string]int{} // by a key and its value
	for i, log := range c.Logs {
		e := log.Embedded
		if e == nil {
			e = &embedded.Config{}
		}
		for _, own := range [][]string{
			{strings.TrimRight(log.URL, "/"), "url"},
			{e.Name, "embedded", "name"}, {e.Dir, "embedded", "dir"}, {e.Guard, "embedded", "guard"}, {e.Key, "embedded", "key"},
		} {
			if j, ok := first[joined(own)]; ok && own[0] != "" {
				d.wrong(join(path, append([]string{"logs", strconv.Itoa(i)}, own[1:]...)...), "%q is also that of log %d in this list", shorten(own[0]), j+1)
			} else {
				first[joined(own)] = i
			}
		}
	}
}

// check checks one entry of ct.logs; package ctlog/embedded checks the values of an embedded log.
func (l *CTLog) check(d *decoder, path []string) {
	switch {
	case l.URL != "" && l.Embedded != nil:
		d.wrong(join(path, "embedded"), "url and embedded exclude each other: a log is remote or in this process, and two logs are two entries")
	case l.URL == "" && l.Embedded == nil:
		d.wrong(join(path, "url"), "the log has neither a url, for a remote log, nor embedded, for one in this process")
	case l.Embedded != nil && l.TokenFile != "":
		d.wrong(join(path, "token_file"), "token_file is for a remote log: an embedded log in this process takes entries without one")
	case l.Embedded != nil && l.CAFile != "":
		d.wrong(join(path, "ca_file"), "ca_file is for a remote log: an embedded log in this process is not reached over TLS")
	case l.Embedded != nil && l.PublicKey != "":
		d.wrong(join(path, "public_key"), "public_key is for a remote log: an embedded log has its key in embedded.key")
	case l.Embedded == nil:
		d.baseURL(join(path, "url"), l.URL)
		if l.CAFile != "" && strings.HasPrefix(l.URL, "http:") {
			d.wrong(join(path, "ca_file"), "the log %s is reached without TLS, so that ca_file would have no effect: write https in url, or remove ca_file", shorten(l.URL))
		}
		if l.PublicKey == "" {
			d.wrong(join(path, "public_key"), "public_key is missing: it names the PEM file of the log's key, with which every SCT is verified")
		}
	}
}

// baseURL reports what is wrong with the URL of a server.
func (d *decoder) baseURL(path []string, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		d.wrong(path, "found %q, which is no URL", shorten(text))
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		d.wrong(path, "found %q, expected an https URL", shorten(text))
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || u.User != nil:
		d.wrong(path, "the URL has a query, a fragment or user information, and must have none") // user information may be a secret
	}
}

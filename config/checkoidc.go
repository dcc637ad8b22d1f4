// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

func (l *serverLoader) checkOIDC() {
	o := l.server.OIDC
	if o.AllowLoopback {
		l.caution("oidc.allow_loopback", "whoever can listen on a loopback address of this machine can be an issuer: for development only")
	}
	if len(o.InsecureHosts) > 0 {
		l.caution("oidc.insecure_hosts", "any party on the network between this server and %s can be an issuer: for development only", strings.Join(o.InsecureHosts, ", "))
	}
	if !o.Proxy.IsZero() && !isProxy(o.Proxy.Reveal()) {
		// The value may hold a password.
		l.wrong("oidc.proxy", "the value is not of the form http://host:port, https://host:port, or the same with a user name and password")
	}
	if o.KeyRefresh < 10*time.Second || o.KeyRefresh > time.Hour {
		l.wrong("oidc.key_refresh", "found %s, where 10s to 1h is wanted: a key that its issuer has withdrawn may be accepted that long", o.KeyRefresh)
	}
	if o.KeyLifetime < o.KeyRefresh || o.KeyLifetime > 7*24*time.Hour {
		l.wrong("oidc.key_lifetime", "found %s, where key_refresh (%s) to 168h is wanted: keys that cannot be read again are trusted that long", o.KeyLifetime, o.KeyRefresh)
	}
	if server := o.Kubernetes.APIServer; server != "" {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || baseURL(server) != "" {
			l.wrong("oidc.kubernetes.api_server", "found %q, where an https URL is wanted", shorten(server))
		}
	}
}

// insecureHost reads an entry of oidc.insecure_hosts.
func (l *serverLoader) insecureHost(_ int, n *node) {
	var host string
	before := len(l.mistakes)
	if l.text(&host)(n); len(l.mistakes) > before {
		return
	}
	u, err := url.Parse("http://" + host)
	if _, notIP := netip.ParseAddr(host); notIP != nil && (err != nil || host == "" || u.Hostname() != host || strings.Contains(host, "*")) {
		l.mistake(n.at, "found %q; the name or IP address of one host is expected, without a scheme, port, path or *", shorten(host))
	}
	l.server.OIDC.InsecureHosts = append(l.server.OIDC.InsecureHosts, host)
}

func isProxy(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		(u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}

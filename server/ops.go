// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Ops is `ops`: what the ops listener serves beside metrics and health.
type Ops struct {
	// Page is whether / on the ops listener shows the state of the server to a browser.
	Page bool `key:"page" default:"true"`
	// PProf is whether /debug/pprof/ on the ops listener serves profiles, for `go tool pprof`. A
	// profile shows which code runs, and no secret; making one costs CPU time.
	PProf bool `key:"pprof"`
	// Hosts are the names of this machine by which clients reach the page, the profiles and the state, beside
	// localhost and IP addresses. A request with another name is refused: a foreign web site can give
	// its own name any address, and so make a browser read what only the operator can reach.
	Hosts []string `key:"hosts"`
}

const profiles = "/debug/pprof/"

// checkBrowser refuses what a foreign web site can make a browser of the operator send: another
// method than GET, a request of another site, and a Host that is not of this machine.
func (s *Server) checkBrowser(w http.ResponseWriter, r *http.Request) (done bool, err error) {
	if done, err := checkVerb(w, r, http.MethodGet); done || err != nil {
		return done, err
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" && site != "same-origin" {
		return false, refusal.New(refusal.RequestMalformed, "another web site sent the browser here; enter the address of this page yourself")
	}
	return false, s.checkHost(r.Host, false)
}

// checkHost refuses a Host that is not of this machine. With private, it permits names that no foreign web site can have: of one
// label, and below domains that are no public ones.
func (s *Server) checkHost(host string, private bool) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(host)
	_, notIP := netip.ParseAddr(strings.Trim(host, "[]"))
	same := func(known string) bool { return strings.EqualFold(host, known) }
	if notIP == nil || host == "localhost" || slices.ContainsFunc(s.cfg.Ops.Hosts, same) {
		return nil
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if private && host != "" && (last == host || slices.Contains([]string{"svc", "local", "internal"}, last)) {
		return nil
	}
	return refusal.New(refusal.RequestMalformed, "the header Host is %.100q; expected localhost, an IP address, or a name that the configuration lists under ops.hosts", host)
}

// servePProf answers with a profile. Package net/http/pprof also registers its handlers with
// http.DefaultServeMux when it is imported; no listener serves that. A profile ends when the shutdown
// begins.
func (s *Server) servePProf(w http.ResponseWriter, r *http.Request, q *request) {
	if done, err := s.checkBrowser(w, r); done {
		return
	} else if err != nil {
		q.refuse(w, refusal.From(err))
		return
	}
	q.answer()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-s.health.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	named := map[string]http.HandlerFunc{"profile": pprof.Profile, "trace": pprof.Trace, "symbol": pprof.Symbol, "cmdline": pprof.Cmdline}
	handler := named[strings.TrimPrefix(r.URL.Path, profiles)]
	if handler == nil {
		handler = pprof.Index // which has the others
	}
	handler(w, r.WithContext(ctx))
}

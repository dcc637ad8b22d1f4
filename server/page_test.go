// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// withPage has a page that answers with the path.
func withPage(c *Config) {
	c.Ops = Ops{Page: true, Hosts: []string{"ops.example"}}
	c.Page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
}

// The page is on the ops listener alone, and only where it is switched on.
func TestPageIsForOps(t *testing.T) {
	t.Parallel()
	on := newFixture(t, withPage)
	off := newFixture(t, func(c *Config) { withPage(c); c.Ops.Page = false })
	none := newFixture(t, func(c *Config) { c.Ops.Page = true })
	for _, path := range []string{"/", "/page/search", "/page/style.css"} {
		if body := readAll(t, on.profile(t, "GET", "localhost:2112", path)); body != path {
			t.Errorf("%s: %s", path, body)
		}
		checkRefusal(t, on.do(t, "GET", path, ""), refusal.PathNotFound)
		checkRefusal(t, off.profile(t, "GET", "localhost", path), refusal.PathNotFound)
		checkRefusal(t, none.profile(t, "GET", "localhost", path), refusal.PathNotFound)
	}
	checkRefusal(t, on.profile(t, "GET", "localhost", "/pages"), refusal.PathNotFound)
}

// The page is for GET and HEAD, a Host of this machine, and no page of another web site.
func TestPageRefusesForeignSites(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withPage)
	for _, host := range []string{"localhost", "127.0.0.1:2112", "[::1]:2112", "ops.example"} {
		for _, site := range []string{"none", "same-origin"} {
			if resp := f.profile(t, "GET", host, "/", "Sec-Fetch-Site", site); resp.StatusCode != http.StatusOK {
				t.Errorf("%s, %s: status %d", host, site, resp.StatusCode)
			}
		}
	}
	if resp := f.profile(t, "HEAD", "localhost", "/"); resp.StatusCode != http.StatusOK {
		t.Errorf("HEAD: status %d", resp.StatusCode)
	}
	for _, host := range []string{"", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "ops.example@evil.example"} {
		checkRefusal(t, f.profile(t, "GET", host, "/"), refusal.RequestMalformed)
	}
	for _, site := range []string{"cross-site", "same-site", "other"} {
		checkRefusal(t, f.profile(t, "GET", "localhost", "/page/search", "Sec-Fetch-Site", site), refusal.RequestMalformed)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		checkRefusal(t, f.profile(t, method, "localhost", "/"), refusal.MethodNotPermitted)
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	var all tally
	start := time.Unix(1_800_000_000, 0)
	if len(all.state(start)) != 0 {
		t.Error("a new tally has counts")
	}
	for _, minutes := range []int{0, 0, 1, 59, 59, 59, 58} { // the last one is of a clock that was set back
		all.add("a", start.Add(time.Duration(minutes)*time.Minute))
	}
	all.add("b", start)
	got := all.state(start.Add(59 * time.Minute))
	a := got[0]
	if a.Name != "a" || a.Total != 7 || a.Hour != 7 || a.Minutes[0] != 2 || a.Minutes[1] != 1 || a.Minutes[59] != 4 || got[1].Name != "b" || got[1].Minutes[0] != 1 {
		t.Errorf("%+v", got)
	}
	if a := all.state(start.Add(60 * time.Minute))[0]; a.Total != 7 || a.Hour != 5 || a.Minutes[0] != 1 || a.Minutes[59] != 0 {
		t.Errorf("a minute later: %+v", a)
	}
	if a := all.state(start.Add(1e6 * time.Minute))[0]; a.Total != 7 || a.Hour != 0 {
		t.Errorf("much later: %+v", a)
	}
}

// A report has the busiest names, and the sum of the others.
func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	var all tally
	now := time.Unix(1_800_000_000, 0)
	for i := range 10_000 {
		all.add(fmt.Sprint("entry ", i), now)
	}
	all.add("entry 777", now)
	got := all.state(now)
	if len(got) != maxBusy+1 || got[0].Name != "entry 777" || got[0].Hour != 2 {
		t.Fatalf("%d names, the first %+v", len(got), got[0])
	}
	if others := got[maxBusy]; others.Name != "" || others.Total != 10_001-51 || others.Hour != others.Total || others.Minutes[59] != others.Total {
		t.Errorf("the others: %+v", others)
	}
}

// Requests are counted in the state: certificates by issuer entry, and refusals by reason.
func TestStateCountsRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.do(t, "GET", "/nothing", "")
	f.do(t, "GET", "/api/v1/rootCert", "")
	s := f.State(t.Context())
	if len(s.Certificates) != 0 || len(s.Refusals) != 1 || s.Refusals[0].Name != string(refusal.PathNotFound) || s.Refusals[0].Total != 1 {
		t.Errorf("%+v, %+v", s.Certificates, s.Refusals)
	}
}

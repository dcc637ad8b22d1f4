// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

func TestRefreshInterval(t *testing.T) {
	t.Parallel()
	const most = 15 * time.Minute
	for _, test := range []struct {
		control []string
		age     string
		want    time.Duration
	}{
		{nil, "", most},
		{[]string{"max-age=300"}, "", 5 * time.Minute},
		{[]string{"public, max-age=300, must-revalidate"}, "", 5 * time.Minute},
		{[]string{`Public,MAX-AGE="300"`}, "", 5 * time.Minute},
		{[]string{"max-age=600", "max-age=300"}, "", 5 * time.Minute},
		{[]string{"max-age=300"}, "180", 2 * time.Minute},
		{[]string{"max-age=300"}, "400", minRefresh},
		{[]string{"max-age=300"}, "soon", 5 * time.Minute},
		{[]string{"max-age=0"}, "", minRefresh},
		{[]string{"no-cache, no-store, max-age=0, must-revalidate"}, "", minRefresh},
		{[]string{"no-store"}, "", most},
		{[]string{"s-maxage=60"}, "", most},
		{[]string{"max-age"}, "", most},
		{[]string{"max-age=-1"}, "", most},
		{[]string{"max-age=1.5"}, "", most},
		{[]string{"max-age=21600"}, "", most},
		{[]string{"max-age=99999999999999999999999999"}, "", most},
	} {
		header := http.Header{"Cache-Control": test.control}
		if test.age != "" {
			header.Set("Age", test.age)
		}
		if got := refreshInterval(header, most); got != test.want {
			t.Errorf("Cache-Control %q and Age %q: %s, want %s", test.control, test.age, got, test.want)
		}
	}
	if got := refreshInterval(http.Header{"Cache-Control": {"max-age=0"}}, 10*time.Second); got != 10*time.Second {
		t.Errorf("the operator's shorter interval became %s", got)
	}
}

// TestMaxAgeIsHonoured: an issuer can request reads more often than every 15 minutes.
func TestMaxAgeIsHonoured(t *testing.T) {
	t.Parallel()
	for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{Issuers: []Issuer{issuer}}, provider.Config{Lifetime: time.Hour})
			w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Cache-Control", "max-age=120")
				w.provider.ServeHTTP(rw, r)
			}))
			stop := w.run(t)
			defer stop()
			synctest.Wait()
			token := mint(t, w.provider, nil)
			if err := w.verify(t, token); err != nil {
				t.Fatal(err)
			}
			if err := w.provider.Withdraw(w.provider.SigningKey().KeyID); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			wantReason(t, w.verify(t, token), refusal.SignatureInvalid)
		})
	}
}

// TestShortMaxAge: an issuer that forbids all caching is read at most once a minute.
func TestShortMaxAge(t *testing.T) {
	t.Parallel()
	for _, issuer := range []Issuer{staticIssuer(testIssuer), wildcardIssuer("https://*.example")} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{Issuers: []Issuer{issuer}}, provider.Config{Lifetime: 2 * time.Hour})
			w.serve(testIssuer, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Cache-Control", "no-store, max-age=0")
				w.provider.ServeHTTP(rw, r)
			}))
			defer w.run(t)()
			token := mint(t, w.provider, nil)
			for range 599 { // at 600 s the eleventh is due
				if err := w.verify(t, token); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			if n := w.provider.KeyFetches(); n < 9 || n > 10 {
				t.Errorf("%d key fetches in ten minutes", n)
			}
		})
	}
}

func FuzzRefreshInterval(f *testing.F) {
	for _, seed := range []string{"max-age=300", `private, max-age="5", x="a,b"`, "max-age=18446744073709551616", ",,=,max-age=", "max-age=-0"} {
		f.Add(seed, "7")
	}
	f.Fuzz(func(t *testing.T, control, age string) {
		got := refreshInterval(http.Header{"Cache-Control": {control}, "Age": {age}}, time.Hour)
		if got < minRefresh || got > time.Hour {
			t.Errorf("%q, %q: %s", control, age, got)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package set

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// day is a time in the validity of the test chains: 2026-01-01 and n days; zero for 0.
func day(n float64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n * 24 * float64(time.Hour)))
}

// chainEnd is when the chains of setMember expire, as a day.
const chainEnd = 3*365 + 1 // 2028 is a leap year

type dates struct{ publish, activate, retire, compromised float64 } // days; 0 for none

func setMember(t *testing.T, id string, d dates) Member { return memberUntil(t, id, d, chainEnd) }

// memberUntil returns a member with a new chain that expires on the day end.
func memberUntil(t *testing.T, id string, d dates, end float64, more ...pkix.Extension) Member {
	t.Helper()
	keys := [2]*ecdsa.PrivateKey{}
	var certificates []*x509.Certificate
	for i := range keys {
		var der []byte
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint(id, i)}, NotBefore: day(0.0001), NotAfter: day(end),
			KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}
		parent := template
		if i > 0 {
			parent, template.ExtraExtensions = certificates[0], more
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err == nil {
			keys[i] = key
			der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), keys[0])
		}
		c, err2 := x509.ParseCertificate(der)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		certificates = append([]*x509.Certificate{c}, certificates...)
	}
	chain, err := ca.NewChain(certificates)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.Local(id, keys[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.NewAuthority(id, chain, s)
	if err != nil {
		t.Fatal(err)
	}
	return Member{ID: id, Chain: chain, Authority: authority, PublishAt: day(d.publish), ActivateAt: day(d.activate), RetireAt: day(d.retire), CompromisedAt: day(d.compromised)}
}

func mustSet(t *testing.T, generation uint64, members ...Member) *Set {
	t.Helper()
	s, err := New(generation, members)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// expect requires an error with the text want; "" for none.
func expect(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got error %v, want %q", what, err, want)
	}
}

// at returns the authority that signs at now, "" for none, and the trust bundle.
func at(t *testing.T, s *Set, now time.Time) (signs, bundle string) {
	t.Helper()
	authority, err := s.Active(now)
	if err == nil {
		signs = authority.ID()
	} else if e := (*refusal.Error)(nil); !errors.As(err, &e) || e.Reason != refusal.CAExpiring {
		t.Errorf("%s: got error %v, want a refusal for CA_EXPIRING", now, err)
	}
	for _, chain := range s.TrustBundle(now) {
		i := slices.IndexFunc(s.members, func(m Member) bool { return m.Chain == chain })
		bundle = strings.TrimSpace(bundle + " " + s.members[i].ID)
	}
	return signs, bundle
}

func TestStateFollowsFromTheClockAlone(t *testing.T) {
	t.Parallel()
	// In the file's order, which has no meaning.
	s := mustSet(t, 7,
		setMember(t, "c", dates{publish: 8, activate: 20, retire: 30}),
		setMember(t, "later", dates{publish: 9}),
		setMember(t, "a", dates{publish: 1, activate: 1}),
		setMember(t, "b", dates{publish: 2, activate: 10, retire: 15}))
	for _, test := range []struct {
		day    float64
		signs  string
		bundle string
	}{
		{0.5, "", ""},
		{1, "a", "a"},
		{2, "a", "a b"},
		{9, "a", "a b c later"},
		{9.9999, "a", "a b c later"},
		{10, "b", "b c later a"},
		{15, "", "c later b a"}, // b has retired, and c has not begun
		{20, "c", "c later b a"},
		{30, "", "later c b a"},
		{chainEnd, "", "later c b a"},
		{chainEnd + 0.1, "", ""},
	} {
		signs, bundle := at(t, s, day(test.day))
		if test.day <= chainEnd && signs != test.signs || bundle != test.bundle { // the profile refuses each certificate later
			t.Errorf("day %g: %q signs and the bundle is %q, want %q and %q", test.day, signs, bundle, test.signs, test.bundle)
		}
	}
}

// For all dates: no chain leaves the bundle before it expires, no authority outside the bundle
// signs, and states only advance.
func TestBundleIsMonotonic(t *testing.T) {
	t.Parallel()
	random := mathrand.New(mathrand.NewPCG(7, 7))
	pool := make([]Member, 4)
	for i := range pool {
		pool[i] = setMember(t, string(rune('a'+i)), dates{})
	}
	for range 60 {
		members := slices.Clone(pool)
		for i := range members {
			m := &members[i]
			m.PublishAt = day(float64(1 + random.IntN(40)))
			if random.IntN(5) > 0 {
				m.ActivateAt = m.PublishAt.Add(time.Duration(random.IntN(1000)) * time.Hour)
			}
			if random.IntN(3) == 0 {
				m.RetireAt = slices.MaxFunc([]time.Time{m.ActivateAt, m.PublishAt}, time.Time.Compare).Add(time.Duration(1+random.IntN(1000)) * time.Hour)
			}
		}
		s, err := New(1, members)
		if err != nil {
			continue // two with the same activate_at
		}
		seen := map[string]State{}
		for hour := 0; hour < 24*150; hour += 2 {
			now := day(1).Add(time.Duration(hour) * time.Hour)
			signs, bundle := at(t, s, now)
			if !strings.HasPrefix(bundle, signs) {
				t.Fatalf("at %s %q signs, and the bundle is %q", now, signs, bundle)
			}
			for _, m := range s.members {
				state := m.StateAt(now)
				if state < seen[m.ID] || state > Staged != strings.Contains(bundle, m.ID) {
					t.Fatalf("at %s %q is %s after %s, and the bundle is %q", now, m.ID, state, seen[m.ID], bundle)
				}
				seen[m.ID] = state
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	a := setMember(t, "a", dates{publish: 1, activate: 2})
	same := func(change func(*Member)) Member {
		m := setMember(t, "b", dates{publish: 1, activate: 3})
		change(&m)
		return m
	}
	for name, test := range map[string]struct {
		second Member
		path   string
		want   string
	}{
		"same ID":              {same(func(m *Member) { m.ID = "a" }), "authorities 1 id", "two authorities have the ID"},
		"same activate_at":     {same(func(m *Member) { m.ActivateAt = a.ActivateAt }), "authorities 1 activate_at", "both begin to sign"},
		"same key":             {same(func(m *Member) { m.Chain = a.Chain }), "authorities 1 chain", "needs a new key"},
		"no publish_at":        {same(func(m *Member) { m.PublishAt = time.Time{} }), "authorities 1 publish_at", "is missing"},
		"signs unpublished":    {same(func(m *Member) { m.PublishAt = day(4) }), "authorities 1 activate_at", "before it is published"},
		"retires before":       {same(func(m *Member) { m.RetireAt = day(3) }), "authorities 1 retire_at", "begins to sign only at"},
		"signs before its day": {same(func(m *Member) { m.PublishAt, m.ActivateAt = day(-5), day(-1) }), "authorities 1 activate_at", "are valid from"},
		"signs after its end":  {same(func(m *Member) { m.ActivateAt = day(chainEnd) }), "authorities 1 activate_at", "are valid from"},
	} {
		_, err := New(1, []Member{a, test.second})
		all := keypath.All(err)
		if len(all) != 1 || strings.Join(all[0].Path, " ") != test.path || !strings.Contains(all[0].Error(), test.want) {
			t.Errorf("%s: got %v, want one at %s that says %q", name, err, test.path, test.want)
		}
	}
	if _, err := New(0, nil); err == nil || len(keypath.All(err)) != 2 {
		t.Errorf("a set without anything: %v", err)
	}
}

func TestSucceeds(t *testing.T) {
	t.Parallel()
	a, b := setMember(t, "a", dates{publish: 1, activate: 1}), setMember(t, "b", dates{publish: 5, activate: 10})
	changed := func(m Member, change func(*Member)) Member {
		change(&m)
		return m
	}
	since := func(n float64) Member { return changed(a, func(m *Member) { m.CompromisedAt = day(n) }) }
	moved := changed(b, func(m *Member) { m.ActivateAt = day(12) })
	const removed, trusted = `authority "b" is in the trust bundle until`, "is compromised since"
	for name, test := range map[string]struct {
		current, next []Member
		generation    uint64 // of next; that of current is 3
		want          string // "" for accepted
	}{
		"the same once more":                {[]Member{b, a}, []Member{b, a}, 3, ""},
		"a later one":                       {[]Member{b, a}, []Member{a, moved}, 4, ""},
		"another name":                      {[]Member{b, a}, []Member{a, changed(b, func(m *Member) { m.ID = "c" })}, 4, ""},
		"an older one":                      {[]Member{b, a}, []Member{a, b}, 2, "generation 2 is older than generation 3"},
		"the same with other content":       {[]Member{b, a}, []Member{a, moved}, 3, "write 4"},
		"the same, compromised":             {[]Member{b, a}, []Member{since(4), b}, 3, "the content differs"},
		"one without what is published":     {[]Member{b, a}, []Member{a}, 4, removed},
		"one that takes a publication back": {[]Member{b, a}, []Member{a, changed(b, func(m *Member) { m.PublishAt = day(9) })}, 4, removed},
		"compromised":                       {[]Member{a, b}, []Member{since(4), b}, 4, ""},
		"compromised in the future":         {[]Member{a, b}, []Member{since(7), b}, 4, ""},
		"compromised earlier":               {[]Member{since(4), b}, []Member{since(3), b}, 4, ""},
		"compromised, and removed":          {[]Member{since(4), b}, []Member{b}, 4, ""},
		"compromised later":                 {[]Member{since(4), b}, []Member{since(5), b}, 4, trusted},
		"compromised no more":               {[]Member{since(4), b}, []Member{a, b}, 4, trusted},
		"compromised, and another removed":  {[]Member{a, b}, []Member{since(4)}, 4, removed},
	} {
		expect(t, name, mustSet(t, test.generation, test.next...).Succeeds(mustSet(t, 3, test.current...), day(6)), test.want)
	}
}

func TestCheckAt(t *testing.T) {
	t.Parallel()
	a := setMember(t, "a", dates{publish: 1, activate: 1})
	// A policy that no other certificate of the chain has: no verifier accepts a leaf below it.
	useless := func(d dates) Member {
		return memberUntil(t, "b", d, chainEnd, pkix.Extension{Id: []int{2, 5, 29, 36}, Critical: true, Value: []byte("\x30\x03\x80\x01\x00")})
	}
	for name, test := range map[string]struct {
		set      *Set
		day      float64
		err      string
		warnings []string
	}{
		"well":                         {mustSet(t, 1, a), 2, "", nil},
		"first one to come":            {mustSet(t, 1, a), 0.5, "the first one has not begun to sign", nil},
		"active one has ended":         {mustSet(t, 1, a), chainEnd + 1, "authorities: 0: chain: authority \"a\" must sign: the CA certificate", nil},
		"retired one has ended":        {mustSet(t, 1, a, memberUntil(t, "b", dates{publish: chainEnd - 5, activate: chainEnd - 1}, 4*365)), chainEnd + 2, "", nil},
		"lead is short":                {mustSet(t, 1, a, setMember(t, "b", dates{publish: 5, activate: 5.5})), 5.2, "", []string{`"b" signs 12h0m0s after it is published`}},
		"lead was short long ago":      {mustSet(t, 1, a, setMember(t, "b", dates{publish: 5, activate: 5.5})), 8, "", nil},
		"gap between two":              {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4, 0}), setMember(t, "b", dates{publish: 2, activate: 6})), 3, "", []string{"nothing signs from 2026-01-05"}},
		"retires without a successor":  {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4, 0})), 3, "", []string{"nothing signs from 2026-01-05"}},
		"stopped on purpose":           {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4, 0})), 5, "", []string{"every request is refused"}},
		"nothing is ever to sign":      {mustSet(t, 1, setMember(t, "a", dates{publish: 1})), 5, "mayfly ca activate", nil},
		"useless and staged":           {mustSet(t, 1, a, useless(dates{publish: 9})), 2, "invalid policies", nil},
		"useless and published":        {mustSet(t, 1, a, useless(dates{publish: 1})), 2, "invalid policies", nil},
		"useless and retired":          {mustSet(t, 1, a, useless(dates{publish: 1, retire: 1.5})), 2, "", []string{"invalid policies"}},
		"successor retires as planned": {mustSet(t, 1, setMember(t, "a", dates{1, 1, 6, 0}), setMember(t, "b", dates{publish: 2, activate: 6})), 3, "", nil},
	} {
		warnings, err := test.set.CheckAt(day(test.day))
		expect(t, name, err, test.err)
		if len(warnings) != len(test.warnings) {
			t.Errorf("%s: got warnings %v, want %q", name, warnings, test.warnings)
			continue
		}
		for i, want := range test.warnings {
			if !strings.Contains(warnings[i].Error(), want) {
				t.Errorf("%s: got warning %v, want %q", name, warnings[i], want)
			}
		}
	}
}

// A key that was not loaded because it had retired is never used when a clock goes back.
func TestActiveWithoutKey(t *testing.T) {
	t.Parallel()
	a := setMember(t, "a", dates{publish: 1, activate: 1})
	a.Authority = nil
	if signs, bundle := at(t, mustSet(t, 1, a, setMember(t, "b", dates{publish: 2, activate: 10})), day(9)); signs != "" || bundle != "a b" {
		t.Errorf("%q signs, and the bundle is %q", signs, bundle)
	}
}

// An authority that signs has no end. The window of a retired one ends with its last certificate, and
// that of a compromised one at the compromise, to the second: a compromise never lengthens a window,
// and one before the first signature leaves none.
func TestWindows(t *testing.T) {
	t.Parallel()
	retired := day(10).Add(70 * time.Minute)
	hour := float64(1) / 24
	for name, test := range map[string]struct {
		a, b dates
		want map[string]time.Time
	}{
		"retired":                           {dates{publish: 1, activate: 1}, dates{2, 10, 40, 0}, map[string]time.Time{"a": retired, "b": {}, "c": {}}},
		"compromised":                       {dates{publish: 1, activate: 1}, dates{2, 10, 0, 15}, map[string]time.Time{"a": retired, "b": day(15), "c": {}}},
		"compromised before it signed":      {dates{publish: 1, activate: 1}, dates{2, 10, 0, 9.5}, map[string]time.Time{"a": retired, "c": {}}},
		"compromised long after it retired": {dates{1, 1, 0, 15}, dates{publish: 2, activate: 10}, map[string]time.Time{"a": retired, "b": {}, "c": {}}},
		"compromised within its window":     {dates{1, 1, 0, 10 + hour}, dates{publish: 2, activate: 10}, map[string]time.Time{"a": day(10 + hour), "b": {}, "c": {}}},
		"compromised before it retired":     {dates{1, 1, 0, 9}, dates{publish: 2, activate: 10}, map[string]time.Time{"a": day(9), "b": {}, "c": {}}},
	} {
		got := map[string]time.Time{}
		for _, w := range mustSet(t, 1, setMember(t, "a", test.a), setMember(t, "b", test.b), setMember(t, "c", dates{publish: 3, activate: 30})).Windows(day(16)) {
			got[w.ID] = w.End
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: the windows end (-want +got):\n%s", name, diff)
		}
	}
}

// A compromised authority has left the trust bundle, signs nothing, and does not reactivate a
// predecessor. A server loads the set all the same.
func TestCompromised(t *testing.T) {
	t.Parallel()
	s := mustSet(t, 1, setMember(t, "a", dates{publish: 1, activate: 1}), setMember(t, "b", dates{2, 10, 0, 15}), setMember(t, "c", dates{publish: 3, activate: 30}))
	for now, want := range map[float64]string{9: "a: a b c", 14.9: "b: b c a", 15: ": c a", 29: ": c a", 30: "c: c a"} {
		if signs, bundle := at(t, s, day(now)); signs+": "+bundle != want {
			t.Errorf("day %v: %q signs and the bundle is %q, want %q", now, signs, bundle, want)
		}
	}
	if warnings, err := s.CheckAt(day(16)); err != nil || len(warnings) == 0 {
		t.Errorf("a server would not load it, and sign on: %v, %v", warnings, err)
	}
	if m := s.Members()[1]; m.StateAt(day(16)) != Compromised || m.StateAt(day(chainEnd+1)) != Expired || m.StateAt(day(11)) != Active {
		t.Error("the states are wrong")
	}
}

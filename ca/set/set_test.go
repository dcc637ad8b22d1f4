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

// day is a time in the validity of the test chains: 2026-01-01 and n days.
func day(n float64) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n * 24 * float64(time.Hour)))
}

// chainEnd is when the chains of setMember expire, as a day.
const chainEnd = 3*365 + 1 // 2028 is a leap year

type dates struct{ publish, activate, retire float64 } // days; 0 for none

func setMember(t testing.TB, id string, d dates) Member { return memberUntil(t, id, d, chainEnd) }

// memberUntil returns a member with a new chain that expires on the day end.
func memberUntil(t testing.TB, id string, d dates, end float64, more ...pkix.Extension) Member {
	t.Helper()
	keys := [2]*ecdsa.PrivateKey{}
	var certificates []*x509.Certificate
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint(id, i)}, NotBefore: day(0), NotAfter: day(end),
			KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}
		parent := template
		if i > 0 {
			parent, template.ExtraExtensions = certificates[0], more
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, keys[i].Public(), keys[0])
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
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
	at := func(n float64) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return day(n)
	}
	return Member{ID: id, Chain: chain, Authority: authority, PublishAt: at(d.publish), ActivateAt: at(d.activate), RetireAt: at(d.retire)}
}

func mustSet(t testing.TB, generation uint64, members ...Member) *Set {
	t.Helper()
	s, err := New(generation, members)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ids(s *Set, chains []*ca.Chain) (list []string) {
	for _, chain := range chains {
		for _, m := range s.members {
			if m.Chain == chain {
				list = append(list, m.ID)
			}
		}
	}
	return list
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
		now := day(test.day)
		signs := ""
		if authority, err := s.Active(now); err == nil {
			signs = authority.ID()
		} else if e := (*refusal.Error)(nil); !errors.As(err, &e) || e.Reason != refusal.CAExpiring {
			t.Errorf("day %g: got error %v, want a refusal for CA_EXPIRING", test.day, err)
		}
		if test.day > chainEnd {
			continue // the profile refuses each certificate then
		}
		if bundle := strings.Join(ids(s, s.TrustBundle(now)), " "); signs != test.signs || bundle != test.bundle {
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
			m.ActivateAt, m.RetireAt = time.Time{}, time.Time{}
			if random.IntN(5) > 0 {
				m.ActivateAt = m.PublishAt.Add(time.Duration(random.IntN(1000)) * time.Hour)
			}
			if random.IntN(3) == 0 {
				m.RetireAt = later(m.ActivateAt, m.PublishAt).Add(time.Duration(1+random.IntN(1000)) * time.Hour)
			}
		}
		s, err := New(1, members)
		if err != nil {
			continue // two with the same activate_at
		}
		seen := map[string]State{}
		for hour := 0; hour < 24*150; hour += 2 {
			now := day(0).Add(time.Duration(hour) * time.Hour)
			bundle := ids(s, s.TrustBundle(now))
			if authority, err := s.Active(now); err == nil && (len(bundle) == 0 || bundle[0] != authority.ID()) {
				t.Fatalf("at %s %q signs, and the bundle is %q", now, authority.ID(), bundle)
			}
			for _, m := range s.members {
				state := m.StateAt(now)
				if state < seen[m.ID] || state > Staged != slices.Contains(bundle, m.ID) {
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
	moved := b
	moved.ActivateAt = day(12)
	unpublished := b
	unpublished.PublishAt = day(9)
	renamed := b
	renamed.ID = "c"
	now := day(6)
	for name, test := range map[string]struct {
		next *Set
		want string // "" for accepted
	}{
		"the same once more":                {mustSet(t, 3, b, a), ""},
		"a later one":                       {mustSet(t, 4, a, moved), ""},
		"another name":                      {mustSet(t, 4, a, renamed), ""},
		"an older one":                      {mustSet(t, 2, a, b), "generation 2 is older than generation 3"},
		"the same with other content":       {mustSet(t, 3, a, moved), "write 4"},
		"one without what is published":     {mustSet(t, 4, a), `authority "b" is in the trust bundle until`},
		"one that takes a publication back": {mustSet(t, 4, a, unpublished), `authority "b" is in the trust bundle until`},
	} {
		err := test.next.Succeeds(mustSet(t, 3, b, a), now)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
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
		"first one to come":            {mustSet(t, 1, a), 0.5, `"a" is next, at 2026-01-02`, nil},
		"active one has ended":         {mustSet(t, 1, a), chainEnd + 1, "authorities: 0: chain: authority \"a\" must sign: the CA certificate", nil},
		"retired one has ended":        {mustSet(t, 1, a, memberUntil(t, "b", dates{publish: chainEnd - 5, activate: chainEnd - 1}, 4*365)), chainEnd + 2, "", nil},
		"lead is short":                {mustSet(t, 1, a, setMember(t, "b", dates{publish: 5, activate: 5.5})), 5.2, "", []string{`"b" signs 12h0m0s after it is published`}},
		"lead was short long ago":      {mustSet(t, 1, a, setMember(t, "b", dates{publish: 5, activate: 5.5})), 8, "", nil},
		"gap between two":              {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4}), setMember(t, "b", dates{publish: 2, activate: 6})), 3, "", []string{"nothing signs from 2026-01-05"}},
		"retires without a successor":  {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4})), 3, "", []string{"nothing signs from 2026-01-05"}},
		"stopped on purpose":           {mustSet(t, 1, setMember(t, "a", dates{1, 1, 4})), 5, "", []string{"every request is refused"}},
		"nothing is ever to sign":      {mustSet(t, 1, setMember(t, "a", dates{publish: 1})), 5, "mayfly ca activate", nil},
		"useless and staged":           {mustSet(t, 1, a, useless(dates{publish: 9})), 2, "invalid policies", nil},
		"useless and published":        {mustSet(t, 1, a, useless(dates{publish: 1})), 2, "invalid policies", nil},
		"useless and retired":          {mustSet(t, 1, a, useless(dates{publish: 1, retire: 1.5})), 2, "", []string{"invalid policies"}},
		"successor retires as planned": {mustSet(t, 1, setMember(t, "a", dates{1, 1, 6}), setMember(t, "b", dates{publish: 2, activate: 6})), 3, "", nil},
	} {
		warnings, err := test.set.CheckAt(day(test.day))
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got error %v, want %q", name, err, test.err)
		}
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
	s := mustSet(t, 1, a, setMember(t, "b", dates{publish: 2, activate: 10}))
	if _, err := s.Active(day(9)); err == nil || !strings.Contains(errors.Unwrap(err).Error(), "the clock was set back") {
		t.Errorf("got error %v", err)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	s := mustSet(t, 1,
		setMember(t, "a", dates{publish: 1, activate: 1}), setMember(t, "b", dates{2, 10, 40}), setMember(t, "c", dates{publish: 3}))
	type window struct {
		ID         string
		Start, End time.Time
	}
	got := []window{}
	for _, w := range s.Windows(day(11)) {
		got = append(got, window{w.ID, w.Start, w.End})
	}
	want := []window{
		{"b", day(0), time.Time{}}, // its retirement is in the future, and may be postponed
		{"c", day(0), time.Time{}},
		{"a", day(0), day(10).Add(70 * time.Minute)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("windows (-want +got):\n%s", diff)
	}
}

// The window of a compromised authority ends when its key was compromised, to the second. It has
// left the trust bundle, signs nothing, and does not reactivate a predecessor.
func TestCompromised(t *testing.T) {
	t.Parallel()
	members := func(compromised float64) []Member {
		b := setMember(t, "b", dates{publish: 2, activate: 10})
		b.CompromisedAt = day(compromised)
		return []Member{setMember(t, "a", dates{publish: 1, activate: 1}), b, setMember(t, "c", dates{publish: 3, activate: 30})}
	}
	s := mustSet(t, 1, members(15)...)
	for now, want := range map[float64]string{9: "a", 14.9: "b", 15: "", 29: "", 30: "c"} {
		active, err := s.Active(day(now))
		if got := ""; err == nil {
			if got = active.ID(); got != want {
				t.Errorf("day %v: %q signs, want %q", now, got, want)
			}
		} else if want != "" {
			t.Errorf("day %v: %v", now, err)
		}
	}
	if got := ids(s, s.TrustBundle(day(16))); !slices.Equal(got, []string{"c", "a"}) {
		t.Errorf("the trust bundle is %q", got)
	}
	windows := s.Windows(day(16))
	if w := windows[len(windows)-1]; len(windows) != 3 || w.ID != "b" || !w.End.Equal(day(15)) || !w.Start.Equal(day(0)) {
		t.Errorf("the windows are %+v", windows)
	}
	never := mustSet(t, 1, members(9.5)...)
	if windows := never.Windows(day(16)); len(windows) != 2 {
		t.Errorf("the windows are %+v, and b has signed nothing that is trusted", windows)
	}
	if _, err := never.Active(day(16)); err == nil {
		t.Error("a retired authority signs again")
	}
	if warnings, err := s.CheckAt(day(16)); err != nil || len(warnings) == 0 {
		t.Errorf("a server would not load it, and sign on: %v, %v", warnings, err)
	}
	if m := s.Members()[1]; m.StateAt(day(16)) != Compromised || m.StateAt(day(chainEnd+1)) != Expired || m.StateAt(day(11)) != Active {
		t.Error("the states are wrong")
	}
}

// A compromise that is found after the authority has retired never lengthens its window.
func TestCompromisedAfterRetirement(t *testing.T) {
	t.Parallel()
	retired := day(10).Add(70 * time.Minute)
	for name, test := range map[string]struct{ at, want time.Time }{
		"long after":        {day(15), retired},
		"within the window": {day(10).Add(time.Hour), day(10).Add(time.Hour)},
		"before it retired": {day(9), day(9)},
	} {
		a := setMember(t, "a", dates{publish: 1, activate: 1})
		a.CompromisedAt = test.at
		windows := mustSet(t, 1, a, setMember(t, "b", dates{publish: 2, activate: 10})).Windows(day(16))
		if w := windows[len(windows)-1]; len(windows) != 2 || w.ID != "a" || !w.End.Equal(test.want) {
			t.Errorf("%s: the windows are %+v, want an end at %v", name, windows, test.want)
		}
	}
}

// A set that compromises an authority in the bundle is put in force; one that trusts it again is
// not.
func TestSucceedsByACompromise(t *testing.T) {
	t.Parallel()
	a, b := setMember(t, "a", dates{publish: 1, activate: 1}), setMember(t, "b", dates{publish: 2})
	since := func(n float64) Member {
		m := a
		m.CompromisedAt = day(n)
		return m
	}
	for name, test := range map[string]struct {
		now, next []Member
		want      string
	}{
		"compromised":            {[]Member{a, b}, []Member{since(4), b}, ""},
		"in the future":          {[]Member{a, b}, []Member{since(7), b}, ""},
		"earlier":                {[]Member{since(4), b}, []Member{since(3), b}, ""},
		"removed afterwards":     {[]Member{since(4), b}, []Member{b}, ""},
		"later":                  {[]Member{since(4), b}, []Member{since(5), b}, "is compromised since"},
		"taken back":             {[]Member{since(4), b}, []Member{a, b}, "is compromised since"},
		"b is gone at that time": {[]Member{a, b}, []Member{since(4)}, `authority "b" is in the trust bundle until`},
	} {
		err := mustSet(t, 4, test.next...).Succeeds(mustSet(t, 3, test.now...), day(6))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
	}
	if err := mustSet(t, 3, since(4)).Succeeds(mustSet(t, 3, a), day(6)); err == nil || !strings.Contains(err.Error(), "the content differs") {
		t.Errorf("the same generation: %v", err)
	}
}

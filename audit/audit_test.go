// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

func intent(i int) *Record {
	return &Record{
		Kind: KindIntent, RequestID: fmt.Sprint("request-", i), IssuerURL: "https://issuer.example", Entry: "https://issuer.example",
		Identity: fmt.Sprintf("person-%d@example.com", i), Subject: fmt.Sprint("subject-", i), Serial: fmt.Sprintf("%040x", i), Token: hashOf(fmt.Append(nil, i)),
		Values: map[string]any{"repository": "octo-org/octo-repo", "groups": []any{"a", "b"}, "secret": "unlisted"},
	}
}

// opened opens an audit log, and closes it when the test ends.
func opened(tb testing.TB, cfg Config) *Log {
	tb.Helper()
	l := must(Open(cfg))(tb)
	tb.Cleanup(func() { closed(tb, l) })
	return l
}

// closed closes a log, unless it is closed.
func closed(tb testing.TB, l *Log) {
	tb.Helper()
	if l.lock != nil {
		_ = l.Close(context.WithoutCancel(tb.Context()))
	}
}

// issued appends intents and their outcomes.
func issued(tb testing.TB, l *Log, n int) {
	tb.Helper()
	for i := range n {
		e := must(l.Append(tb.Context(), intent(i), nil))(tb)
		outcome := intent(i)
		outcome.Kind, outcome.Reason = KindOutcome, ReasonOK
		must(l.Append(tb.Context(), outcome, e))(tb)
	}
}

// whole verifies a directory, which must have no finding.
func whole(tb testing.TB, dir string, heads ...string) *Report {
	tb.Helper()
	r := must(Verify(tb.Context(), dir, heads))(tb)
	for _, f := range r.Findings {
		tb.Error(f)
	}
	return r
}

// records returns the records of a directory.
func records(tb testing.TB, dir string, q Query) (all []Record) {
	tb.Helper()
	must(0, Search(tb.Context(), dir, q, func(r *Record, _ []byte) error {
		all = append(all, *r)
		return nil
	}))(tb)
	return all
}

// A search finds each record of a time, also where the clock was set back within a file or between two.
func TestSearchAfterAStepBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	var now atomic.Int64
	at := func(clock string) time.Time { return must(time.Parse(time.DateTime, "2026-11-30 "+clock+":00"))(t) }
	write := func(clocks ...string) { // a file
		l := must(Open(Config{Dir: dir, MaxSize: 1, Now: func() time.Time { return time.Unix(now.Load(), 0) }}))(t)
		l.cfg.MaxSize = 1 << 20
		for i, clock := range clocks {
			now.Store(at(clock).Unix())
			must(l.Append(t.Context(), intent(i), nil))(t)
		}
		must(0, l.release())(t)
	}
	write("09:00", "11:55")
	write("10:05", "13:00", "11:00")
	write("11:10")
	for _, test := range []struct {
		since, until string
		want         []string
	}{
		{"11:30", "12:30", []string{"11:55"}},
		{"10:50", "11:05", []string{"11:00"}},
		{"12:00", "", []string{"13:00"}},
		{"", "09:30", []string{"09:00"}},
		{"14:00", "", nil},
	} {
		q := Query{}
		if test.since != "" {
			q.Since = at(test.since)
		}
		if test.until != "" {
			q.Until = at(test.until)
		}
		var got []string
		for _, r := range records(t, dir, q) {
			got = append(got, r.Time.UTC().Format("15:04"))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("from %q to %q: %v; %v are expected", test.since, test.until, got, test.want)
		}
	}
}

func TestRecordsAreAChain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	l := must(Open(Config{Dir: dir, Claims: []string{"repository", "groups", "absent"}}))(t)
	issued(t, l, 3)
	l.Deny(&Record{Kind: KindDenial, Reason: "POLICY_DENIED", Entry: "e"})
	l.Refused("TOKEN_EXPIRED")
	l.Refused("TOKEN_EXPIRED")
	must(0, l.Close(t.Context()))(t)
	head, _, _ := l.Status()
	r := whole(t, dir, head.Hash)
	want := map[string]uint64{KindIntent: 3, KindOutcome: 3, KindDenial: 1, KindRefusals: 1, KindShutdown: 1}
	if diff := cmp.Diff(want, r.Kinds); diff != "" || r.First != 1 || r.Head != head || head.Sequence != 9 || r.Found[head.Hash] != 9 {
		t.Errorf("%+v, head %v: %s", r, head, diff)
	}
	all := records(t, dir, Query{})
	if got := all[1]; got.Intent != 1 || got.Reason != ReasonOK || got.Previous != hashOf(bytes.TrimSuffix(line(t, dir, 1), []byte("\n"))) {
		t.Errorf("the first outcome is %+v", got)
	}
	if diff := cmp.Diff(map[string]string{"repository": "octo-org/octo-repo", "groups": `["a","b"]`}, all[0].Claims); diff != "" {
		t.Error(diff)
	}
	if got := records(t, dir, Query{Kind: KindRefusals})[0].Refused; got["TOKEN_EXPIRED"] != 2 {
		t.Errorf("the refusals are %v", got)
	}
}

// line returns a line of the first file of a directory, counted from 1, with its newline.
func line(tb testing.TB, dir string, number int) []byte {
	tb.Helper()
	all := must(list(dir))(tb)
	return bytes.SplitAfter(must(os.ReadFile(all[0].path))(tb), []byte("\n"))[number-1]
}

// A restart continues the chain, in the same file.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for n := range 3 {
		l := must(Open(Config{Dir: dir}))(t)
		if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
			t.Errorf("a second server opened the directory: %v", err)
		}
		issued(t, l, 2)
		must(0, l.Close(t.Context()))(t)
		if r := whole(t, dir); r.Head.Sequence != uint64(5*(n+1)) || r.Files != 1 {
			t.Errorf("start %d: %+v", n, r)
		}
	}
}

// No record is longer than MaxRecord, whatever its texts are, and it states what was cut.
func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := Config{Dir: dir}
	for i := range maxClaims {
		cfg.Claims = append(cfg.Claims, strings.Repeat(string(rune('a'+i)), maxName))
	}
	l := opened(t, cfg)
	hash := strings.Repeat("f", hashSize)
	for _, text := range []string{"x", "<", "\x00", "\xff", "ä", `"`, "\u2028"} {
		long := strings.Repeat(text, 9000)
		r := &Record{
			Kind: KindIntent, RequestID: long, IssuerURL: long, Identity: long, Subject: long, Policy: "denied", Rule: long, Token: hash, TokenID: long,
			Key: hash, Serial: hash, TBS: hash, Authority: long, ConfigGeneration: 1 << 63, CAGeneration: 1 << 63, Certificate: hash, LogID: hash,
			SCTTime: time.Now(), LeafIndex: new(uint64), Version: long, Host: long, PID: 1 << 30, File: long, Error: long, Values: map[string]any{},
		}
		for _, name := range cfg.Claims {
			r.Values[name] = long
		}
		must(l.Append(t.Context(), r, nil))(t)
	}
	short := intent(1)
	short.Identity = strings.Repeat("x", maxText+1)
	must(l.Append(t.Context(), short, nil))(t)
	hostile := intent(1) // long claims do not displace the caller's name
	hostile.Identity = strings.Repeat("y", 300)
	for _, name := range cfg.Claims {
		hostile.Values[name] = strings.Repeat("<", 9000)
	}
	must(l.Append(t.Context(), hostile, nil))(t)
	whole(t, dir)
	all := records(t, dir, Query{})
	if got := all[8]; got.Identity != hostile.Identity || len(got.Cut) != maxClaims {
		t.Errorf("the name among long claims is %s", got.Identity)
	}
	for _, r := range all[:7] {
		if len(r.Cut) < 10+maxClaims || !strings.Contains(r.Identity, "… (") {
			t.Errorf("cut are %q", r.Cut)
		}
	}
	if got := all[7]; !slices.Equal(got.Cut, []string{"identity"}) || len(got.Identity) != maxText {
		t.Errorf("cut are %q of a record with an identity of %d bytes", got.Cut, len(got.Identity))
	}
	if found := records(t, dir, Query{Identity: short.Identity}); len(found) != 1 {
		t.Errorf("the cut name is found in %d records", len(found))
	}
}

// With identity: hmac no record has a name, and the key finds it.
func TestIdentityHMAC(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), []byte(strings.Repeat("k", 32))
	l := opened(t, Config{Dir: dir, Identity: "hmac", HMACKeyFile: "k", HMACKey: key})
	issued(t, l, 3)
	closed(t, l)
	content := must(os.ReadFile(must(list(dir))(t)[0].path))(t)
	for _, secret := range []string{"person-", "subject-", string(key), "unlisted", "octo-org"} {
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("a record has %q", secret)
		}
	}
	if got := records(t, dir, Query{Identity: "person-1@example.com", Key: key}); len(got) != 2 || got[0].Serial != fmt.Sprintf("%040x", 1) {
		t.Errorf("the key finds %+v", got)
	}
	if got := KeyedHash(key, "identity", "person"); got == KeyedHash(key, "subject", "person") || got != "hmac-sha256:"+hexHMAC(key, "identity=person") {
		t.Errorf("the hash of an identity is %s", got)
	}
	if got := records(t, dir, Query{Identity: "person-1@example.com", Key: key[1:]}); got != nil {
		t.Errorf("another key finds %+v", got)
	}
}

func hexHMAC(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestQuery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := must(Open(Config{Dir: dir, MaxAge: time.Hour}))(t)
		for range 5 {
			issued(t, l, 1)
			time.Sleep(time.Hour)
		}
		l.Refused("TOKEN_EXPIRED")
		must(0, l.Close(t.Context()))(t)
	})
	all := records(t, dir, Query{})
	if n := len(must(list(dir))(t)); n != 6 {
		t.Errorf("there are %d files, want one for each hour", n)
	}
	for name, test := range map[string]struct {
		q    Query
		want int
	}{
		"all": {Query{}, 12}, "identity": {Query{Identity: "person-0@example.com"}, 10}, "wildcard": {Query{Identity: "person-*"}, 10}, "other": {Query{Identity: "person"}, 0},
		"issuer": {Query{Issuer: "https://*.example"}, 10}, "serial": {Query{Serial: fmt.Sprintf("%040x", 0)}, 10}, "kind": {Query{Kind: KindIntent}, 5},
		"reason": {Query{Reason: ReasonOK}, 5}, "counted": {Query{Reason: "TOKEN_EXPIRED"}, 1}, "no reason": {Query{Reason: "POLICY_DENIED"}, 0},
		"since": {Query{Since: all[2].Time}, 10}, "until": {Query{Until: all[1].Time}, 2}, "span": {Query{Since: all[2].Time, Until: all[5].Time}, 4},
	} {
		if got := len(records(t, dir, test.q)); got != test.want {
			t.Errorf("%s: %d records, want %d", name, got, test.want)
		}
	}
}

// Files begin by size while many goroutines write; the chain goes through all of them. Files at the
// beginning can be moved away.
func TestRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := opened(t, Config{Dir: dir, MaxSize: 64 << 10})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() { issued(t, l, 40) })
	}
	all.Wait()
	closed(t, l)
	r := whole(t, dir)
	files := must(list(dir))(t)
	if r.Kinds[KindIntent] != 640 || r.Kinds[KindOutcome] != 640 || len(files) < 5 {
		t.Errorf("%+v", r)
	}
	for _, f := range files {
		if size := must(os.Stat(f.path))(t).Size(); size > 64<<10+maxHeader {
			t.Errorf("%s has %d bytes", f.path, size)
		}
	}
	archive := t.TempDir()
	for _, f := range files[:3] {
		must(0, os.Rename(f.path, filepath.Join(archive, filepath.Base(f.path))))(t)
	}
	rest, old := whole(t, dir), whole(t, archive)
	if rest.First != files[3].name || rest.Head != r.Head || old.Head.Sequence != files[3].name-1 || old.Head.Hash != files[3].first.Previous {
		t.Errorf("%+v after %+v", rest, old)
	}
}

// A denial has a record within the limit of its issuer entry; the others are counted.
func TestDenialsAreLimited(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := must(Open(Config{Dir: dir}))(t)
		deny := func(entry string, n int) {
			for range n {
				l.Deny(&Record{Kind: KindDenial, Reason: "POLICY_DENIED", IssuerURL: entry, Entry: entry})
			}
		}
		deny("noisy", 1000)
		deny("quiet", 10)
		time.Sleep(5 * denialInterval)
		deny("noisy", 1000)
		must(0, l.Close(t.Context()))(t)
	})
	noisy, quiet := records(t, dir, Query{Kind: KindDenial, Issuer: "noisy"}), records(t, dir, Query{Kind: KindDenial, Issuer: "quiet"})
	r := records(t, dir, Query{Kind: KindRefusals})
	if len(noisy) != denialBurst+5 || len(quiet) != 10 || len(r) != 1 || r[0].Refused["POLICY_DENIED"] != 2000-denialBurst-5 || r[0].Dropped != 2000-denialBurst-5 {
		t.Errorf("%d and %d denials, and %+v", len(noisy), len(quiet), r)
	}
}

// disk is a disk that fails as it is told.
type disk struct {
	mu   sync.Mutex
	fail func(f *os.File, b []byte) error // nil: it works
	hold chan struct{}                    // nil: it does not hang
}

func (d *disk) set(fail func(*os.File, []byte) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func (d *disk) store(f *os.File, b []byte) error {
	d.mu.Lock()
	fail := d.fail
	d.mu.Unlock()
	if d.hold != nil {
		<-d.hold
	}
	if fail != nil {
		return fail(f, b)
	}
	return store(f, b)
}

// While the disk fails, no record counts and each request is refused; then the log resumes by itself with a
// recovery record.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*os.File, []byte) error{
		"full":        func(*os.File, []byte) error { return syscall.ENOSPC },
		"partly full": func(f *os.File, b []byte) error { _, _ = f.Write(b[:len(b)/2]); return syscall.ENOSPC },
		"sync fails":  func(f *os.File, b []byte) error { _, _ = f.Write(b); return syscall.EIO },
		"read only":   func(f *os.File, b []byte) error { _ = f.Close(); return syscall.EROFS }, // nothing can be cut off
		"written, and cannot be cut off": func(f *os.File, b []byte) error {
			_, _ = f.Write(b)
			_ = f.Close()
			return syscall.EIO
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				d := &disk{}
				l := must(Open(Config{Dir: dir, store: d.store}))(t)
				issued(t, l, 2)
				before, _, _ := l.Status()
				d.set(fail)
				for range 3 {
					e, err := l.Append(t.Context(), intent(3), nil)
					if refusal.From(err).Reason != refusal.AuditUnavailable || e != nil {
						t.Errorf("the answer is %v", err)
					}
				}
				l.Event(&Record{Kind: KindReload})
				l.Deny(&Record{Kind: KindDenial, Reason: "POLICY_DENIED"})
				if head, since, err := l.Status(); err == nil || since.IsZero() || head != before {
					t.Errorf("the head is %v, want %v; %v", head, before, err)
				}
				d.set(nil)
				time.Sleep(2 * retryInterval) // by itself, without a request
				if head, _, err := l.Status(); err != nil || head.Sequence != before.Sequence+2 {
					t.Errorf("after the recovery: %v, %v", head, err)
				}
				issued(t, l, 1)
				must(0, l.Close(t.Context()))(t)
			})
			r := whole(t, dir)
			want := map[string]uint64{KindIntent: 3, KindOutcome: 3, KindRecovery: 1, KindReload: 1, KindRefusals: 1, KindShutdown: 1}
			if diff := cmp.Diff(want, r.Kinds); diff != "" {
				t.Error(diff)
			}
			if all := records(t, dir, Query{Kind: KindRecovery}); all[0].Sequence != 5 || all[0].File != fileName(1) || all[0].Error == "" {
				t.Errorf("%+v", all)
			}
		})
	}
}

// A disk that hangs makes the log not writable: each request is refused when its time is over, and later at once.
func TestHangingDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{hold: make(chan struct{})}
		l := must(Open(Config{Dir: dir, store: d.store}))(t)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		e, err := l.Append(ctx, intent(1), nil)
		if refusal.From(err).Reason != refusal.AuditUnavailable || e == nil {
			t.Errorf("the answer is %v", err)
		}
		outcome := intent(1)
		outcome.Kind, outcome.Reason = KindOutcome, string(refusal.AuditUnavailable)
		_, _ = l.Append(ctx, outcome, e)
		for i := range maxQueue {
			_, _ = l.Append(ctx, intent(i), nil)
		}
		l.Deny(&Record{Kind: KindDenial, Reason: "POLICY_DENIED"})
		if e, err := l.Append(t.Context(), intent(1), nil); e != nil || err == nil || len(l.queue) != maxQueue {
			t.Errorf("%d records wait, and one more gets %v", len(l.queue), err)
		}
		if l.queue[maxQueue-1].Values != nil {
			t.Error("a record that waits keeps all claims of its token")
		}
		time.Sleep(2 * time.Second)
		if _, since, err := l.Status(); err == nil || time.Since(since) != 6*time.Second {
			t.Errorf("the log counts as writable, or not since %v: %v", since, err)
		}
		l.mu.Lock()
		l.queue = l.queue[:maxQueue-1]
		l.mu.Unlock()
		if e, err := l.Append(t.Context(), intent(1), nil); e != nil || refusal.From(err).Reason != refusal.AuditUnavailable {
			t.Errorf("after the stall, the answer is %v", err)
		}
		close(d.hold)
		synctest.Wait()
		if _, _, err := l.Status(); err != nil {
			t.Errorf("after the hang: %v", err)
		}
		must(0, l.Close(t.Context()))(t)
	})
	all := records(t, dir, Query{})
	if all[1].Intent != 1 || all[1].Reason != string(refusal.AuditUnavailable) || whole(t, dir).Kinds[KindDenial] != 0 {
		t.Errorf("%+v", all[:2])
	}
}

// A directory or a file that is gone is noticed; a new file continues the chain, or the log waits for the
// directory.
func TestFilesAreMovedAway(t *testing.T) {
	t.Parallel()
	dir, aside := filepath.Join(t.TempDir(), "audit"), filepath.Join(t.TempDir(), "aside")
	synctest.Test(t, func(t *testing.T) {
		l := must(Open(Config{Dir: dir}))(t)
		issued(t, l, 1)
		must(0, errors.Join(os.Mkdir(aside, 0o700), os.Rename(must(list(dir))(t)[0].path, filepath.Join(aside, fileName(1)))))(t)
		issued(t, l, 1)
		must(0, os.Rename(dir, dir+".old"))(t)
		if _, err := l.Append(t.Context(), intent(1), nil); err == nil {
			t.Error("a record is durable without a directory")
		}
		must(0, os.Mkdir(dir, 0o700))(t)
		time.Sleep(2 * retryInterval)
		if _, err := Open(Config{Dir: dir}); err == nil {
			t.Error("the new directory is not locked")
		}
		issued(t, l, 1)
		must(0, l.Close(t.Context()))(t)
	})
	first, second, third := whole(t, aside), whole(t, dir+".old"), whole(t, dir)
	if first.Head.Sequence != 2 || second.First != 3 || second.Head.Sequence != 5 || third.First != 6 || third.Head.Sequence != 9 {
		t.Errorf("%+v, %+v, %+v", first, second, third)
	}
}

// A server whose lock was removed neither writes to the files that another server uses, nor cuts them.
func TestLockIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := must(Open(Config{Dir: dir}))(t)
	issued(t, l, 1)
	must(0, os.Remove(filepath.Join(dir, lockFile)))(t)
	other := opened(t, Config{Dir: dir})
	issued(t, other, 1)
	if _, err := l.Append(t.Context(), intent(2), nil); refusal.From(err).Reason != refusal.AuditUnavailable {
		t.Errorf("without its lock: %v", err)
	}
	issued(t, other, 1)
	if r := whole(t, dir); r.Head.Sequence != 6 {
		t.Errorf("%+v", r)
	}
	_ = l.Close(t.Context())
}

// A new file never replaces one that has records.
func TestFileOfAnotherLog(t *testing.T) {
	t.Parallel()
	dir, aside := t.TempDir(), t.TempDir()
	l := must(Open(Config{Dir: dir}))(t)
	issued(t, l, 2)
	must(0, l.Close(t.Context()))(t)
	before := must(os.ReadFile(filepath.Join(dir, fileName(1))))(t)
	l = opened(t, Config{Dir: aside})
	must(0, errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)))(t)
	if _, err := l.Append(t.Context(), intent(1), nil); err == nil || !bytes.Equal(before, must(os.ReadFile(filepath.Join(aside, fileName(1))))(t)) {
		t.Errorf("the file was replaced: %v", err)
	}
}

// What a crash leaves at the end of a file is closed by a recovery record and is no failure.
func TestTornEnd(t *testing.T) {
	t.Parallel()
	for name, torn := range map[string]string{
		"half a line": `{"seq":5,"ti`, "zeros": strings.Repeat("\x00", 5000), "zeros and a line": strings.Repeat("\x00", 5000) + "\n{}\n", "an empty line": "\n",
		"lines": `{"seq":7,"time":"2026-11-30T00:00:00Z","prev":"` + noHash + `","kind":"intent"}` + "\n",
	} {
		dir := t.TempDir()
		l := must(Open(Config{Dir: dir}))(t)
		issued(t, l, 2)
		must(0, l.Close(t.Context()))(t)
		files := must(list(dir))(t)
		f := must(os.OpenFile(files[0].path, os.O_APPEND|os.O_WRONLY, 0))(t)
		_, err := f.WriteString(torn)
		must(0, errors.Join(err, f.Close()))(t)
		if r := must(Verify(t.Context(), dir, nil))(t); (r.Broken > 0) != (torn[len(torn)-1] == '\n') || r.Broken == 0 && len(r.Notes) != 1 {
			t.Errorf("%s, before the start: %+v", name, r)
		}
		// A second crash, between the creation of the next file and its first record.
		must(0, os.WriteFile(filepath.Join(dir, fileName(6)), []byte(torn[:len(torn)/2]), 0o600))(t)
		if r := must(Verify(t.Context(), dir, nil))(t); torn == `{"seq":5,"ti` && (r.Broken > 0 || len(r.Notes) != 2) {
			t.Errorf("%s, after two crashes: %+v", name, r)
		}
		l = must(Open(Config{Dir: dir}))(t)
		issued(t, l, 1)
		must(0, l.Close(t.Context()))(t)
		r := whole(t, dir)
		if r.Kinds[KindRecovery] != 1 || r.Kinds[KindIntent] != 3 || len(r.Notes) != 1 || r.Head.Sequence != 9 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A file with more damage than a batch is no crash: the server starts, and Verify finds it.
func TestDamageIsNoCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := must(Open(Config{Dir: dir}))(t)
	issued(t, l, 2000)
	must(0, l.Close(t.Context()))(t)
	path := must(list(dir))(t)[0].path
	content := must(os.ReadFile(path))(t)
	if len(content) < maxBatch+100_000 {
		t.Fatalf("the file has %d bytes", len(content))
	}
	content[50_000] ^= 1
	must(0, os.WriteFile(path, content, 0o600))(t)
	l = must(Open(Config{Dir: dir}))(t)
	issued(t, l, 1)
	must(0, l.Close(t.Context()))(t)
	if r := must(Verify(t.Context(), dir, nil))(t); r.Broken == 0 || r.Kinds[KindRecovery] != 0 || r.Head.Sequence != 4004 {
		t.Errorf("%+v", r)
	}
}

// A restart does not turn a changed record into the end of a file, though all of it is in the last batch.
func TestRestartKeepsDamage(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte) []byte{
		"changed":    func(line []byte) []byte { return bytes.Replace(line, []byte("example"), []byte("evil"), 1) },
		"unreadable": func(line []byte) []byte { return append(bytes.Repeat([]byte{0}, len(line)-1), '\n') },
		"missing":    func([]byte) []byte { return nil },
	} {
		dir := t.TempDir()
		l := must(Open(Config{Dir: dir}))(t)
		issued(t, l, 5)
		must(0, l.Close(t.Context()))(t)
		path := must(list(dir))(t)[0].path
		lines := bytes.SplitAfter(must(os.ReadFile(path))(t), []byte("\n"))
		lines[2] = change(lines[2])
		must(0, os.WriteFile(path, bytes.Join(lines, nil), 0o600))(t)
		l = must(Open(Config{Dir: dir}))(t)
		issued(t, l, 1)
		must(0, l.Close(t.Context()))(t)
		if r := must(Verify(t.Context(), dir, nil))(t); r.Broken == 0 || r.Kinds[KindRecovery] != 0 || r.Head.Sequence != 14 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A recovery record neither hides durable records nor adds others: Verify names those that it leaves out, and Search
// does not find them.
func TestForgedRecovery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := must(Open(Config{Dir: dir}))(t)
	issued(t, l, 5)
	must(0, l.Close(t.Context()))(t)
	forged, head := must(os.ReadFile(filepath.Join(dir, fileName(1))))(t), Head{4, hashOf(bytes.TrimSuffix(line(t, dir, 4), []byte("\n")))}
	b, _ := appendEntry(nil, l.entry(&Record{Kind: KindRecovery, File: fileName(1)}), head, time.Now())
	must(0, os.WriteFile(filepath.Join(dir, fileName(5)), b, 0o600))(t)
	r := must(Verify(t.Context(), dir, nil))(t)
	if r.Broken != 3 || !strings.Contains(r.Findings[0], ":6: record 6 follows durable records that the recovery record 5 leaves out") || r.Head.Sequence != 5 {
		t.Errorf("%+v", r)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "with 7 records after record 4 do not count") {
		t.Errorf("the notes are %q", r.Notes)
	}
	if all := records(t, dir, Query{}); len(all) != 5 || all[4].Kind != KindRecovery {
		t.Errorf("found %+v", all)
	}
	// Nor is a file of such records between the two one that ends early.
	must(0, errors.Join(os.Truncate(filepath.Join(dir, fileName(1)), int64(bytes.Index(forged, []byte(`{"seq":5`)))),
		os.WriteFile(filepath.Join(dir, fileName(3)), forged, 0o600)))(t)
	if r := must(Verify(t.Context(), dir, nil))(t); r.Broken == 0 {
		t.Errorf("a file of other records counts: %+v", r)
	}
}

// Verify names the place of each change of a chain of 10 records in two files.
func TestVerifyFindsChanges(t *testing.T) {
	t.Parallel()
	swap := func(i, j int) func([][]byte) [][]byte {
		return func(all [][]byte) [][]byte { all[i], all[j] = all[j], all[i]; return all }
	}
	for name, test := range map[string]struct {
		change func([][]byte) [][]byte // of the lines of the second file, which has the records 6 to 9
		want   []string
	}{
		"changed": {func(all [][]byte) [][]byte {
			all[1] = bytes.Replace(all[1], []byte("example"), []byte("evil"), 1)
			return all
		}, []string{":2: record 7 was changed"}},
		"missing":          {func(all [][]byte) [][]byte { return slices.Delete(all, 1, 2) }, []string{":2: the records from 7 to 7 are missing"}},
		"missing at first": {func(all [][]byte) [][]byte { return all[1:] }, []string{":1: the name of the file states record 6", ":1: the records from 6 to 6 are missing"}},
		"reordered":        {swap(1, 2), []string{":2: the records from 7 to 7 are missing", ":3: record 7 is repeated, or was moved"}},
		"repeated":         {func(all [][]byte) [][]byte { return slices.Insert(all, 2, all[1]) }, []string{":3: record 7 is repeated"}},
		"unreadable":       {func(all [][]byte) [][]byte { all[1] = []byte("x\n"); return all }, []string{":2: the line is no record", ":3: the records from 7 to 7 are missing"}},
		"too long": {func(all [][]byte) [][]byte {
			return slices.Insert(all, 1, append(bytes.Repeat([]byte(" "), 3*MaxRecord), '\n'))
		}, []string{":2: the line is no record"}},
		"empty":       {func([][]byte) [][]byte { return nil }, nil}, // a missing tail, which only a head shows
		"truncated":   {func(all [][]byte) [][]byte { return all[:2] }, nil},
		"not changed": {func(all [][]byte) [][]byte { return all }, nil},
	} {
		dir := t.TempDir()
		l := must(Open(Config{Dir: dir}))(t)
		issued(t, l, 2)
		must(0, l.Close(t.Context()))(t)
		must(0, os.Rename(filepath.Join(dir, fileName(1)), filepath.Join(dir, fileName(1)+".aside")))(t)
		l = must(Open(Config{Dir: dir}))(t) // an empty directory: a chain of its own
		l.head = Head{5, hashOf(bytes.TrimSuffix(fifth(t, dir), []byte("\n")))}
		issued(t, l, 2)
		head, _, _ := l.Status()
		l.closing = true
		l.wakeUp()
		<-l.stopped
		must(0, errors.Join(l.release(), os.Rename(filepath.Join(dir, fileName(1)+".aside"), filepath.Join(dir, fileName(1)))))(t)
		whole(t, dir, head.Hash)
		path := filepath.Join(dir, fileName(6))
		lines := bytes.SplitAfter(bytes.TrimSuffix(must(os.ReadFile(path))(t), []byte("\n")), []byte("\n"))
		lines[len(lines)-1] = append(lines[len(lines)-1], '\n')
		must(0, os.WriteFile(path, bytes.Join(test.change(lines), nil), 0o600))(t)
		r := must(Verify(t.Context(), dir, []string{head.Hash}))(t)
		for i := range r.Findings {
			r.Findings[i] = strings.TrimPrefix(r.Findings[i], path)
		}
		if len(r.Findings) != len(test.want) || r.Broken != len(test.want) {
			t.Errorf("%s: found %q", name, r.Findings)
			continue
		}
		for i, want := range test.want {
			if !strings.HasPrefix(r.Findings[i], want) {
				t.Errorf("%s: found %q, want %q", name, r.Findings[i], want)
			}
		}
		if _, ok := r.Found[head.Hash]; ok == slices.Contains([]string{"truncated", "empty"}, name) {
			t.Errorf("%s: the head is found: %t", name, ok)
		}
	}
}

func fifth(tb testing.TB, dir string) []byte {
	content := must(os.ReadFile(filepath.Join(dir, fileName(1)+".aside")))(tb)
	return bytes.SplitAfter(content, []byte("\n"))[4]
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), "missing"} {
		if r, err := Verify(t.Context(), dir, nil); err == nil || !errors.As(err, new(*os.PathError)) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	for _, dir := range []string{"missing/audit", "audit.go"} {
		if _, err := Open(Config{Dir: dir}); err == nil {
			t.Errorf("%s was opened", dir)
		}
	}
}

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte("k"), 32)
	for name, test := range map[string]struct {
		cfg  Config
		want string // the key of the mistake
	}{
		"plain": {Config{Identity: "plain"}, ""}, "hmac": {Config{Identity: "hmac", HMACKeyFile: "k", HMACKey: key}, ""},
		"no key file": {Config{Identity: "hmac"}, "hmac_key_file"}, "a key file for plain": {Config{Identity: "plain", HMACKeyFile: "k"}, "hmac_key_file"},
		"a short key": {Config{Identity: "hmac", HMACKeyFile: "k", HMACKey: key[1:]}, "hmac_key_file"}, "claims": {Config{Claims: []string{"a", "https://b.example/c"}}, ""},
		"twice": {Config{Claims: []string{"a", "a"}}, "claims"}, "many": {Config{Claims: strings.Split("abcdefghijklmnopq", "")}, "claims"},
		"no name": {Config{Claims: []string{"a b"}}, "claims"}, "long": {Config{Claims: []string{strings.Repeat("a", 65)}}, "claims"},
	} {
		var keys []string
		for _, e := range keypath.All(CheckSettings(test.cfg)) {
			keys = append(keys, e.Path...)
		}
		if strings.Join(keys, " ") != test.want {
			t.Errorf("%s: mistakes at %q, want %q", name, keys, test.want)
		}
	}
}

// Run logs the head and writes the refusals each minute; a record of refusals is for a minute with some.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		l := must(Open(Config{Dir: dir, Logger: slog.New(slog.NewJSONHandler(&log, nil))}))(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		for i := range 3 {
			for range i {
				l.Refused("TOKEN_MISSING")
			}
			time.Sleep(interval)
			synctest.Wait()
		}
		cancel()
		<-done
		must(0, l.Close(t.Context()))(t)
	})
	got := records(t, dir, Query{Kind: KindRefusals})
	if len(got) != 2 || got[0].Refused["TOKEN_MISSING"] != 1 || got[1].Refused["TOKEN_MISSING"] != 2 {
		t.Errorf("%+v", got)
	}
	var heads []string
	for text := range strings.Lines(log.String()) {
		var line map[string]any
		must(0, json.Unmarshal([]byte(text), &line))(t)
		if line["msg"] == "audit head" {
			heads = append(heads, fmt.Sprint(line["audit_hash"]))
		}
	}
	r := whole(t, dir, heads...)
	if len(heads) != 4 || len(r.Found) != 2 || heads[3] != r.Head.Hash { // at first there is no record
		t.Errorf("the heads are %q, of which %v are in the chain", heads, r.Found)
	}
}

// FuzzRead reads any file: Verify and the start of a server agree on the end of a chain that is whole, and every
// byte is before or after it.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	l := must(Open(Config{Dir: dir}))(f)
	issued(f, l, 2)
	must(0, l.Close(f.Context()))(f)
	path := filepath.Join(dir, fileName(1))
	content := must(os.ReadFile(path))(f)
	f.Add(content)
	f.Add(content[:len(content)-10])
	f.Add([]byte("\n{}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), fileName(1))
		must(0, os.WriteFile(path, content, 0o600))(t)
		r := must(Verify(t.Context(), filepath.Dir(path), nil))(t)
		head, end, left, err := lastRecord(path)
		if err != nil || end+left != int64(len(content)) || r.Broken == 0 && head != r.Head {
			t.Errorf("the end is %v at %d with %d bytes after it (%v), and Verify reports %+v", head, end, left, err, r)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l := opened(b, Config{Dir: b.TempDir(), Claims: []string{"repository"}})
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			_, _ = l.Append(b.Context(), intent(1), nil)
		}
	})
}

func BenchmarkBody(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		r := intent(1)
		r.Claims = claimsOf([]string{"repository"}, r.Values)
		_ = r.body()
	}
}

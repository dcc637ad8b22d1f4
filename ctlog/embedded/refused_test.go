// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// history is a log of 300 entries that has been shut down, in base/log, with copies of its directory
// from before the last entries: empty; older, with the guard older.json; and younger, which has more
// entries than its checkpoint.
type history struct {
	Config
	base string
}

func (h history) at(base string) history {
	h.base, h.Dir, h.Guard, h.Key = base, filepath.Join(base, "log"), filepath.Join(base, "guard", "2026.json"), filepath.Join(base, "2026.key")
	return h
}

func (h history) file(name string) string { return filepath.Join(h.base, name) }

func newHistory(t *testing.T, a *authority) history {
	t.Helper()
	h := history{Config: newConfig(t)}
	h.Roots = a.roots
	h = h.at(filepath.Dir(h.Key))
	copyDir(t, h.Dir, h.file("empty"))
	l := open(t, h.Config)
	submit(t, l, a, 260)
	shutdown(t, l)
	copyDir(t, h.Dir, h.file("older"))
	copyFile(t, h.Guard, h.file("older.json"))
	l = open(t, h.Config)
	submit(t, l, a, 40)
	shutdown(t, l)
	copyDir(t, h.file("older"), h.file("younger"))
	copyFile(t, h.file("older.json"), h.file("younger.json"))
	younger := h.Config
	younger.Dir, younger.Guard, younger.CheckpointInterval = h.file("younger"), h.file("younger.json"), maxCheckpointInterval
	growUnpublished(t, a, younger)
	return h
}

// spoil changes a history between two starts.
type spoil func(t *testing.T, h history)

func restored(backup string) spoil {
	return func(t *testing.T, h history) {
		if err := os.RemoveAll(h.Dir); err != nil {
			t.Fatal(err)
		}
		copyDir(t, h.file(backup), h.Dir)
	}
}

// forked continues the older copy under a guard of the same age, as another process would.
func forked(entries int) spoil {
	return func(t *testing.T, h history) {
		other := h.Config
		other.Dir, other.Guard = h.file("older"), h.file("older.json")
		l := open(t, other)
		submit(t, l, newAuthority(t), entries)
		shutdown(t, l)
		restored("older")(t, h)
	}
}

func removed(name string) spoil { return func(t *testing.T, h history) { remove(t, h.file(name)) } }

func emptied(name string) spoil { return cut(name, 0) }

func cut(name string, size int64) spoil {
	return func(t *testing.T, h history) {
		if err := os.Truncate(h.file(name), size); err != nil {
			t.Fatal(err)
		}
	}
}

func flipped(name string, at int) spoil {
	return func(t *testing.T, h history) { flip(t, h.file(name), at) }
}

func edited(name, from, to string) spoil {
	return func(t *testing.T, h history) {
		content, err := os.ReadFile(h.file(name))
		if err != nil || !bytes.Contains(content, []byte(from)) {
			t.Fatalf("%s holds no %q: %v", name, from, err)
		}
		write(t, h.file(name), bytes.Replace(content, []byte(from), []byte(to), 1))
	}
}

// TestRefusesToSign: changes to a directory or its guard between two starts.
func TestRefusesToSign(t *testing.T) {
	t.Parallel()
	const guard, hashes, data, state, checkpoint = "guard/2026.json", "log/tile/0/001.p/44", "log/tile/data/001.p/44", "log/" + treeStateFile, "log/" + checkpointFile
	a := newAuthority(t)
	original := newHistory(t, a)
	for _, test := range []struct {
		name   string
		spoil  spoil
		reason Reason
	}{
		{"restored from a backup older than the last checkpoint", restored("older"), ReasonOlder},
		{"restored from a backup younger than the last checkpoint", restored("younger"), ReasonOlder},
		{"restored empty", restored("empty"), ReasonOlder},
		{"the tree state alone is older", func(t *testing.T, h history) { copyFile(t, h.file("older/"+treeStateFile), h.file(state)) }, ReasonOlder},
		{"the guard is ahead by one entry", edited(guard, `"tree_size": 300`, `"tree_size": 301`), ReasonOlder},
		{"another history", forked(60), ReasonForked},
		{"another history of the same size", forked(300 - 260), ReasonForked},
		{"no guard", removed(guard), ReasonGuard},
		{"an empty guard", emptied(guard), ReasonGuard},
		{"a guard cut short", cut(guard, 100), ReasonGuard},
		{"the guard of another log", func(t *testing.T, h history) { copyFile(t, newConfig(t).Guard, h.Guard) }, ReasonGuard},
		{"the guard of another origin", edited(guard, testOrigin, "log.example/2025"), ReasonGuard},
		{"a truncated hash tile", cut(hashes, 32*40), ReasonDamaged},
		{"a hash tile cut in the middle of a hash", cut(hashes, 1400), ReasonDamaged},
		{"an altered hash tile", flipped(hashes, 40), ReasonDamaged},
		{"a missing hash tile", removed("log/tile/1/000.p/1"), ReasonDamaged},
		{"a truncated data tile", cut(data, 20000), ReasonDamaged},
		{"an altered data tile", flipped(data, 200), ReasonDamaged},
		{"a missing data tile", removed(data), ReasonDamaged},
		{"an empty tree state", emptied(state), ReasonDamaged},
		{"a missing tree state", removed(state), ReasonDamaged},
		{"a missing checkpoint", removed(checkpoint), ReasonDamaged},
		{"a checkpoint cut short", cut(checkpoint, 60), ReasonDamaged},
		{"a forged checkpoint", edited(checkpoint, "\n300\n", "\n301\n"), ReasonDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := original.at(t.TempDir())
			copyDir(t, original.base, h.base)
			test.spoil(t, h)
			before := snapshot(h.Config)

			inspected, err := Inspect(t.Context(), h.Config)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, inspected.Err, test.reason)
			if head, err := (directory{h.Dir}).head(); err == nil && inspected.TreeSize != head.size {
				t.Errorf("the directory has %d entries, and the inspection shows %d", head.size, inspected.TreeSize)
			}
			if _, err := Fsck(t.Context(), h.Config); err == nil {
				t.Error("fsck finds the log whole")
			}
			l := openSpoilt(t, h.Config)
			checkRefusal(t, l.Ready(), test.reason)
			checkRefusal(t, l.Status().Err, test.reason)
			_, err = l.Submit(t.Context(), a.submission(t))
			checkRefusal(t, err, test.reason)
			url := serve(t, l)
			status, header, body := post(t, url+"/ct/v1/add-pre-chain", testToken, chainJSON(t, a.submission(t).Chain))
			if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || strings.Contains(body, h.base) || !strings.Contains(body, "error_message") {
				t.Errorf("a submitter over HTTP gets %d %v %s", status, header, body)
			}
			if test.reason != ReasonDamaged {
				if _, err := ctClient(t, url, l.PublicKey()).GetSTH(t.Context()); err != nil {
					t.Errorf("what was published cannot be read any more: %v", err)
				}
			}
			shutdown(t, l)
			if after := snapshot(h.Config); after != before {
				t.Errorf("the refused log was written to:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// growUnpublished adds entries for which no checkpoint is published.
func growUnpublished(t *testing.T, a *authority, cfg Config) {
	t.Helper()
	l := open(t, cfg)
	published, err := l.checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	submit(t, l, a, 20)
	l.cancel() // as if the process had stopped
	l.finish = nil
	head, err := l.directory.head()
	if err != nil {
		t.Fatal(err)
	}
	after, err := l.checkpoint()
	if err != nil || after.head != published.head || head.size <= after.head.size {
		t.Fatalf("the checkpoint has %d entries and the tree %d: %v", after.head.size, head.size, err)
	}
	if err := l.unlock(); err != nil {
		t.Fatal(err)
	}
}

func checkRefusal(t *testing.T, err error, reason Reason) {
	t.Helper()
	var refusal *RefusedError
	var retryable *ctlog.RetryableError
	if !errors.As(err, &refusal) || errors.As(err, &retryable) || refusal.Reason != reason || !strings.Contains(err.Error(), "docs/ctlog.md") {
		t.Errorf("got %v, want a refusal because it is %s", err, reason)
	}
}

// snapshot captures what a refused log must not change.
func snapshot(cfg Config) string {
	var all []string
	for _, path := range []string{cfg.Guard, filepath.Join(cfg.Dir, treeStateFile), filepath.Join(cfg.Dir, checkpointFile)} {
		content, err := os.ReadFile(path)
		if err != nil {
			content = []byte("absent")
		}
		all = append(all, path+": "+string(content))
	}
	return strings.Join(all, "\n")
}

// TestRefusesWhileRunning: changes to a directory while a process writes it.
func TestRefusesWhileRunning(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		spoil  func(t *testing.T, cfg Config, backup string)
		reason Reason
	}{
		{"an older copy is put over it", func(t *testing.T, cfg Config, backup string) {
			copyFile(t, filepath.Join(backup, treeStateFile), filepath.Join(cfg.Dir, treeStateFile))
		}, ReasonOlder},
		{"a hash tile is altered", func(t *testing.T, cfg Config, _ string) {
			flip(t, filepath.Join(cfg.Dir, "tile/0/000.p/40"), 40)
		}, ReasonForked},
		{"a data tile is cut short", func(t *testing.T, cfg Config, _ string) {
			if err := os.Truncate(filepath.Join(cfg.Dir, "tile/data/000.p/40"), 9000); err != nil {
				t.Fatal(err)
			}
		}, ReasonDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, cfg := newAuthority(t), newConfig(t)
			l := open(t, cfg)
			submit(t, l, a, 20)
			shutdown(t, l)
			backup := filepath.Join(t.TempDir(), "backup")
			copyDir(t, cfg.Dir, backup)
			l = openSpoilt(t, cfg)
			// One batch, so that the tile of 40 is the newest.
			submit(t, l, a, 20)
			published := waitForCheckpoint(t, l, 40)

			test.spoil(t, cfg, backup)
			_, err := l.Submit(t.Context(), a.submission(t))
			checkRefusal(t, err, test.reason)
			_, err = l.admitCheckpoint(treeHead{size: 1 << 20})
			checkRefusal(t, err, test.reason)
			shutdown(t, l)
			if c, err := l.checkpoint(); err != nil || !bytes.Equal(c.raw, published.raw) {
				t.Errorf("the checkpoint has been replaced: %v, %v", c, err)
			}
			_, err = ctClient(t, serve(t, l), l.PublicKey()).GetSTH(t.Context())
			if err != nil {
				t.Errorf("what was published cannot be read any more: %v", err)
			}
		})
	}
}

// waitForCheckpoint waits until a tree is published. It reads the file as a monitor would.
func waitForCheckpoint(t *testing.T, l *Log, size uint64) *checkpoint {
	t.Helper()
	for t.Context().Err() == nil {
		c, err := l.checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		if c.head.size >= size {
			return c
		}
	}
	t.Fatal("the checkpoint does not come")
	return nil
}

func TestGuardBehindIsMovedOn(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, 5)
	shutdown(t, l)
	old, err := os.ReadFile(cfg.Guard)
	if err != nil {
		t.Fatal(err)
	}
	l = open(t, cfg)
	submit(t, l, a, 600)
	shutdown(t, l)
	// The guard of a process that stopped before the write, or of an older backup.
	write(t, cfg.Guard, old)
	l = open(t, cfg)
	if s := l.Status(); s.Err != nil || s.TreeSize != 605 {
		t.Errorf("status: %+v", s)
	}
	submit(t, l, a, 1)
	shutdown(t, l)
	var g guardFile
	content, err := os.ReadFile(cfg.Guard)
	if err == nil {
		err = json.Unmarshal(content, &g)
	}
	if err != nil || g.TreeSize != 606 {
		t.Errorf("the guard has %d entries: %v", g.TreeSize, err)
	}
}

// TestOpenRefusesWrongSettings: each mistake has the path of its key.
func TestOpenRefusesWrongSettings(t *testing.T) {
	t.Parallel()
	good, other, empty, absent := newConfig(t), newConfig(t), t.TempDir(), filepath.Join(t.TempDir(), "log")
	for _, test := range []struct {
		path string
		set  func(*Config)
	}{
		{"name", func(c *Config) { c.Name = "" }},
		{"name", func(c *Config) { c.Name = "a/b" }},
		{"name", func(c *Config) { c.Name = ".." }},
		{"dir", func(c *Config) { c.Dir = "" }},
		{"dir", func(c *Config) { c.Dir = empty }},
		{"dir", func(c *Config) { c.Dir = absent }},
		{"guard", func(c *Config) { c.Guard = filepath.Join(c.Dir, "x", "..", "g.json") }},
		{"key", func(c *Config) { c.Key = "" }},
		{"key", func(c *Config) { c.Key += "x" }},      // is absent
		{"key", func(c *Config) { c.Key = other.Key }}, // another log's
		{"key", func(c *Config) { c.Origin = "log.example/2025" }},
		{"origin", func(c *Config) { c.Origin = "https://" + c.Origin }},
		{"origin", func(c *Config) { c.Origin += "/" }},
		{"origin", func(c *Config) { c.Origin = "a b" }},
		{"submit.token_file", func(c *Config) { c.SubmitToken = []byte("secret") }},
	} {
		cfg := good
		test.set(&cfg)
		l, err := Open(t.Context(), cfg)
		if err == nil {
			shutdown(t, l)
		}
		var at *keypath.Error
		if !errors.As(err, &at) || strings.Join(at.Path, ".") != test.path {
			t.Errorf("got %v, want a mistake at %s", err, test.path)
		}
	}
	shutdown(t, open(t, good))
	// Open must not replace a lost directory with an empty log.
	if left := names(t, empty); len(left) > 0 {
		t.Errorf("Open created %v", left)
	}
	if _, err := os.Stat(absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open created the directory: %v", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, content)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[at] ^= 1
	write(t, path, content)
}

// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// history is a log of 300 entries that has been shut down, in base/log, with copies of its directory
// from before the last entries: empty; older, with the guard older.json; and younger, which has more
// entries than its checkpoint. other.json is the guard of another log.
type history struct {
	Config
	base string
}

func (h history) at(base string) history {
	moved := history{configIn(base), base}
	moved.Roots = h.Roots
	return moved
}

func (h history) file(name string) string { return filepath.Join(h.base, name) }

func newHistory(t *testing.T, a *authority) history {
	t.Helper()
	base := t.TempDir()
	h := history{newConfigIn(t, base), base}
	h.Roots = a.roots
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
	copyFile(t, newConfig(t).Guard, h.file("other.json"))
	return h
}

// spoil changes a history between two starts. In the texts of edit, ~ is a space and \n a line's end.
func (h history) spoil(t *testing.T, command string) {
	t.Helper()
	part := append(strings.Fields(command), "", "")
	n, _ := strconv.Atoi(part[2])
	text := strings.NewReplacer("~", " ", `\n`, "\n")
	file := h.file(part[1])
	switch part[0] {
	case "restore":
		if err := os.RemoveAll(h.Dir); err != nil {
			t.Fatal(err)
		}
		copyDir(t, file, h.Dir)
	case "fork":
		// Another process has continued the older copy under a guard of the same age.
		entries, _ := strconv.Atoi(part[1])
		other := h.Config
		other.Dir, other.Guard = h.file("older"), h.file("older.json")
		l := open(t, other)
		submit(t, l, newAuthority(t), entries)
		shutdown(t, l)
		h.spoil(t, "restore older")
	case "copy":
		copyFile(t, file, h.file(part[2]))
	case "remove":
		remove(t, file)
	case "cut":
		if err := os.Truncate(file, int64(n)); err != nil {
			t.Fatal(err)
		}
	case "flip":
		flip(t, file, n)
	case "edit":
		content, err := os.ReadFile(file)
		from, to := text.Replace(part[2]), text.Replace(part[3])
		if err != nil || !bytes.Contains(content, []byte(from)) {
			t.Fatalf("%s holds no %q: %v", file, from, err)
		}
		write(t, file, bytes.Replace(content, []byte(from), []byte(to), 1))
	default:
		t.Fatalf("unknown command %q", command)
	}
}

// TestRefusesToSign: changes to a directory or its guard between two starts.
func TestRefusesToSign(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	original := newHistory(t, a)
	cases, err := os.ReadFile("testdata/refused.txt")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(cases), ": "); n < 50 {
		t.Errorf("%s has too few cases", cases)
	}
	for line := range strings.Lines(string(cases)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		part := strings.SplitN(line, ": ", 3)
		if len(part) != 3 {
			t.Errorf("the line %q is no case", line)
			continue
		}
		reason := Reason(part[0])
		t.Run(part[1], func(t *testing.T) {
			t.Parallel()
			h := original.at(t.TempDir())
			copyDir(t, original.base, h.base)
			h.spoil(t, part[2])
			before := snapshot(h.Config)

			inspected, err := Inspect(t.Context(), h.Config)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, inspected.Err, reason)
			if head, err := (directory{h.Dir}).head(); err == nil && inspected.TreeSize != head.Size {
				t.Errorf("the directory has %d entries, and the inspection shows %d", head.Size, inspected.TreeSize)
			}
			if _, err := Fsck(t.Context(), h.Config); err == nil {
				t.Error("fsck finds the log whole")
			}
			l := openSpoilt(t, h.Config)
			checkRefusal(t, l.Ready(), reason)
			checkRefusal(t, l.Status().Err, reason)
			_, err = l.Submit(t.Context(), a.submission(t))
			checkRefusal(t, err, reason)
			url := serve(t, l)
			status, header, body := post(t, url+"/ct/v1/add-pre-chain", testToken, chainJSON(t, a.submission(t).Chain))
			if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || strings.Contains(body, h.base) || !strings.Contains(body, "error_message") {
				t.Errorf("a submitter over HTTP gets %d %v %s", status, header, body)
			}
			if reason != ReasonDamaged {
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
	if err != nil || after.Head != published.Head || head.Size <= after.Head.Size {
		t.Fatalf("the checkpoint has %d entries and the tree %d: %v", after.Head.Size, head.Size, err)
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
	for command, reason := range map[string]Reason{
		"copy older/.state/treeState log/.state/treeState": ReasonOlder,
		"flip log/tile/0/000.p/40 40":                      ReasonForked,
		"cut log/tile/data/000.p/40 9000":                  ReasonDamaged,
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			a, base := newAuthority(t), t.TempDir()
			h := history{newConfigIn(t, base), base}
			l := open(t, h.Config)
			submit(t, l, a, 20)
			shutdown(t, l)
			copyDir(t, h.Dir, h.file("older"))
			l = openSpoilt(t, h.Config)
			// One batch, so that the tile of 40 is the newest.
			submit(t, l, a, 20)
			published := waitForCheckpoint(t, l, 40)

			h.spoil(t, command)
			_, err := l.Submit(t.Context(), a.submission(t))
			checkRefusal(t, err, reason)
			_, err = l.admitCheckpoint(reader.Head{Size: 1 << 20})
			checkRefusal(t, err, reason)
			shutdown(t, l)
			if c, err := l.checkpoint(); err != nil || !bytes.Equal(c.Raw, published.Raw) {
				t.Errorf("the checkpoint has been replaced: %v, %v", c, err)
			}
			if _, err = ctClient(t, serve(t, l), l.PublicKey()).GetSTH(t.Context()); err != nil {
				t.Errorf("what was published cannot be read any more: %v", err)
			}
		})
	}
}

// waitForCheckpoint waits until a tree is published. It reads the file as a monitor would.
func waitForCheckpoint(t *testing.T, l *Log, size uint64) *reader.Checkpoint {
	t.Helper()
	for t.Context().Err() == nil {
		c, err := l.checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		if c.Head.Size >= size {
			return c
		}
	}
	t.Fatal("the checkpoint does not come")
	return nil
}

// A guard of a process that stopped before the write, or from an older backup, is moved on.
func TestGuardBehindIsMovedOn(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	old, err := os.ReadFile(cfg.Guard)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, cfg)
	submit(t, l, a, 600)
	shutdown(t, l)
	write(t, cfg.Guard, old)
	l = open(t, cfg)
	if s := l.Status(); s.Err != nil || s.TreeSize != 600 {
		t.Errorf("status: %+v", s)
	}
	shutdown(t, l)
	if g, err := readGuard(cfg.Guard, cfg.Origin, l.key.LogID()); err != nil || g.TreeSize != 600 {
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

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

// TestRefusesToSign: changes to a directory or its guard between two starts.
func TestRefusesToSign(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// spoil receives a log of 300 entries that has been shut down, and copies of its
		// directory from before the last entries.
		spoil  func(t *testing.T, cfg Config, backups map[string]string)
		reason Reason
		says   string
	}{
		{"restored from a backup older than the last checkpoint", func(t *testing.T, cfg Config, backups map[string]string) {
			restore(t, cfg, backups["before the last checkpoint"])
		}, ReasonOlder, "older than its guard"},
		{"restored from a backup younger than the last checkpoint", func(t *testing.T, cfg Config, backups map[string]string) {
			restore(t, cfg, backups["after the last checkpoint"])
		}, ReasonOlder, "older than its guard"},
		{"restored empty", func(t *testing.T, cfg Config, backups map[string]string) {
			restore(t, cfg, backups["empty"])
		}, ReasonOlder, "it has 0 entries"},
		{"the tree state alone is older", func(t *testing.T, cfg Config, backups map[string]string) {
			copyFile(t, filepath.Join(backups["before the last checkpoint"], treeStateFile), filepath.Join(cfg.Dir, treeStateFile))
		}, ReasonOlder, "its checkpoint 300"},
		{"another history", func(t *testing.T, cfg Config, backups map[string]string) {
			// Another process continues the backup under a guard of the same age.
			other := cfg
			other.Dir, other.Guard = backups["before the last checkpoint"], backups["its guard"]
			l := open(t, other)
			submit(t, l, newAuthority(t), 60)
			shutdown(t, l)
			restore(t, cfg, other.Dir)
		}, ReasonForked, "inconsistent"},
		{"another history of the same size", func(t *testing.T, cfg Config, backups map[string]string) {
			other := cfg
			other.Dir, other.Guard = backups["before the last checkpoint"], backups["its guard"]
			l := open(t, other)
			submit(t, l, newAuthority(t), 300-260)
			shutdown(t, l)
			restore(t, cfg, other.Dir)
		}, ReasonForked, "the same size 300 and two roots"},
		{"no guard", func(t *testing.T, cfg Config, _ map[string]string) {
			remove(t, cfg.Guard)
		}, ReasonGuard, "is missing"},
		{"an empty guard", func(t *testing.T, cfg Config, _ map[string]string) {
			write(t, cfg.Guard, nil)
		}, ReasonGuard, "cannot be used"},
		{"a guard cut short", func(t *testing.T, cfg Config, _ map[string]string) {
			truncate(t, cfg.Guard, 100)
		}, ReasonGuard, "cannot be used"},
		{"the guard of another log", func(t *testing.T, cfg Config, _ map[string]string) {
			copyFile(t, newConfig(t).Guard, cfg.Guard)
		}, ReasonGuard, "with another key"},
		{"the guard of another origin", func(t *testing.T, cfg Config, _ map[string]string) {
			edit(t, cfg.Guard, "log.example/2026", "log.example/2025")
		}, ReasonGuard, `"log.example/2025"`},
		{"the guard is ahead by one entry", func(t *testing.T, cfg Config, _ map[string]string) {
			edit(t, cfg.Guard, `"tree_size": 300`, `"tree_size": 301`)
		}, ReasonOlder, "it has 300 entries"},
		{"a truncated hash tile", func(t *testing.T, cfg Config, _ map[string]string) {
			truncate(t, filepath.Join(cfg.Dir, "tile/0/001.p/44"), 32*40)
		}, ReasonDamaged, "tile/0/001.p/44 has 1280 bytes where 1408 are due"},
		{"a hash tile cut in the middle of a hash", func(t *testing.T, cfg Config, _ map[string]string) {
			truncate(t, filepath.Join(cfg.Dir, "tile/0/001.p/44"), 1400)
		}, ReasonDamaged, "has 1400 bytes"},
		{"a missing hash tile", func(t *testing.T, cfg Config, _ map[string]string) {
			remove(t, filepath.Join(cfg.Dir, "tile/1/000.p/1"))
		}, ReasonDamaged, "tile/1/000.p/1 is missing"},
		{"an altered hash tile", func(t *testing.T, cfg Config, _ map[string]string) {
			flip(t, filepath.Join(cfg.Dir, "tile/0/001.p/44"), 40)
		}, ReasonDamaged, "do not add up"},
		{"a truncated data tile", func(t *testing.T, cfg Config, _ map[string]string) {
			truncate(t, filepath.Join(cfg.Dir, "tile/data/001.p/44"), 20000)
		}, ReasonDamaged, "an entry ends early"},
		{"an altered data tile", func(t *testing.T, cfg Config, _ map[string]string) {
			flip(t, filepath.Join(cfg.Dir, "tile/data/001.p/44"), 200)
		}, ReasonDamaged, "entry 256 has not the hash"},
		{"a missing data tile", func(t *testing.T, cfg Config, _ map[string]string) {
			remove(t, filepath.Join(cfg.Dir, "tile/data/001.p/44"))
		}, ReasonDamaged, "tile/data/001.p/44 is missing"},
		{"an empty tree state", func(t *testing.T, cfg Config, _ map[string]string) {
			write(t, filepath.Join(cfg.Dir, treeStateFile), nil)
		}, ReasonDamaged, "treeState is unreadable"},
		{"a missing tree state", func(t *testing.T, cfg Config, _ map[string]string) {
			remove(t, filepath.Join(cfg.Dir, treeStateFile))
		}, ReasonDamaged, "treeState is missing"},
		{"a missing checkpoint", func(t *testing.T, cfg Config, _ map[string]string) {
			remove(t, filepath.Join(cfg.Dir, checkpointFile))
		}, ReasonDamaged, "checkpoint is missing"},
		{"a checkpoint cut short", func(t *testing.T, cfg Config, _ map[string]string) {
			truncate(t, filepath.Join(cfg.Dir, checkpointFile), 60)
		}, ReasonDamaged, "checkpoint is missing or unreadable"},
		{"a forged checkpoint", func(t *testing.T, cfg Config, _ map[string]string) {
			edit(t, filepath.Join(cfg.Dir, checkpointFile), "\n300\n", "\n301\n")
		}, ReasonDamaged, "invalid signature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, cfg := newAuthority(t), newConfig(t)
			backups := grow(t, a, cfg)
			test.spoil(t, cfg, backups)
			before := snapshot(t, cfg)

			inspected, err := Inspect(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, inspected.Err, test.reason, test.says)
			if head, err := (directory{cfg.Dir}).head(); err == nil && inspected.TreeSize != head.size {
				t.Errorf("the directory has %d entries, and the inspection says %d", head.size, inspected.TreeSize)
			}
			if _, err := Fsck(t.Context(), cfg); err == nil {
				t.Error("fsck finds the log whole")
			}

			l := openSpoilt(t, cfg)
			checkRefusal(t, l.Ready(), test.reason, test.says)
			checkRefusal(t, l.Status().Err, test.reason, test.says)
			_, err = l.Submit(t.Context(), a.submission(t))
			checkRefusal(t, err, test.reason, test.says)
			if test.reason != ReasonDamaged {
				if _, err := ctClient(t, serve(t, l), l.PublicKey()).GetSTH(t.Context()); err != nil {
					t.Errorf("what was published cannot be read any more: %v", err)
				}
			}
			shutdown(t, l)
			if after := snapshot(t, cfg); after != before {
				t.Errorf("the refused log was written to:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// grow grows a new log to 300 entries, and copies it several times.
func grow(t *testing.T, a *authority, cfg Config) map[string]string {
	t.Helper()
	base := t.TempDir()
	backups := map[string]string{}
	backup := func(name string) {
		backups[name] = filepath.Join(base, name)
		copyDir(t, cfg.Dir, backups[name])
	}
	backup("empty")
	l := open(t, cfg)
	submit(t, l, a, 260)
	shutdown(t, l)
	backup("before the last checkpoint")
	backups["its guard"] = filepath.Join(base, "guard.json")
	copyFile(t, cfg.Guard, backups["its guard"])

	l = open(t, cfg)
	// The backup's checkpoint is from the last shutdown; the tree has grown since.
	submit(t, l, a, 20)
	submit(t, l, a, 20)
	shutdown(t, l)
	// A backup that is newer than its checkpoint: the first one, with more entries.
	backups["after the last checkpoint"] = filepath.Join(base, "younger")
	copyDir(t, backups["before the last checkpoint"], backups["after the last checkpoint"])
	other := cfg
	other.Dir, other.Guard = backups["after the last checkpoint"], filepath.Join(base, "other.json")
	copyFile(t, backups["its guard"], other.Guard)
	other.CheckpointInterval = maxCheckpointInterval
	growUnpublished(t, a, other)
	return backups
}

// growUnpublished adds entries for which no checkpoint is published.
func growUnpublished(t *testing.T, a *authority, cfg Config) {
	t.Helper()
	l := open(t, cfg)
	published, err := l.front.checkpoint()
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
	after, err := l.front.checkpoint()
	if err != nil || after.head != published.head || head.size <= after.head.size {
		t.Fatalf("the checkpoint has %d entries and the tree %d: %v", after.head.size, head.size, err)
	}
	if err := l.unlock(); err != nil {
		t.Fatal(err)
	}
}

func checkRefusal(t *testing.T, err error, reason Reason, says string) {
	t.Helper()
	var refusal *RefusedError
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if refusal.Reason != reason {
		t.Errorf("the reason is %s, want %s: %v", refusal.Reason, reason, err)
	}
	for _, part := range []string{says, "log 2026 refuses to sign", "mayfly ctlog init", "docs/ctlog.md"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// snapshot captures what a refused log must not change.
func snapshot(t *testing.T, cfg Config) string {
	t.Helper()
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
			truncate(t, filepath.Join(cfg.Dir, "tile/data/000.p/40"), 9000)
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
			var refusal *RefusedError
			if !errors.As(err, &refusal) || refusal.Reason != test.reason {
				t.Fatalf("got %v, want a refusal because it is %s", err, test.reason)
			}
			if err := l.admitCheckpoint(treeHead{size: 1 << 20}); !errors.As(err, &refusal) {
				t.Errorf("the next checkpoint: %v", err)
			}
			shutdown(t, l)
			if c, err := l.front.checkpoint(); err != nil || !bytes.Equal(c.raw, published.raw) {
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
		c, err := l.front.checkpoint()
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

func TestOpenRefusesWrongSettings(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	for _, test := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"no name", func(c *Config) { c.Name = "" }, "name: "},
		{"a name with a slash", func(c *Config) { c.Name = "a/b" }, "is no name for a log"},
		{"a name of dots", func(c *Config) { c.Name = ".." }, "is no name for a log"},
		{"no directory", func(c *Config) { c.Dir = "" }, "dir: the log's directory is missing"},
		{"a directory without a log", func(c *Config) { c.Dir = t.TempDir() }, "dir: "},
		{"no guard", func(c *Config) { c.Guard = "" }, "guard: the log's guard is missing"},
		{"the guard in the directory", func(c *Config) { c.Guard = filepath.Join(c.Dir, "x", "..", "g.json") }, "is inside the log's directory"},
		{"no key", func(c *Config) { c.Key = "" }, "key: the path of the log's key is missing"},
		{"an absent key", func(c *Config) { c.Key += "x" }, "does not exist; mayfly ctlog init"},
		{"an origin with a scheme", func(c *Config) { c.Origin = "https://" + c.Origin }, "origin: "},
		{"an origin with a slash", func(c *Config) { c.Origin += "/" }, "is no origin"},
		{"an origin with a space", func(c *Config) { c.Origin = "a b" }, "is no origin"},
		{"a batch age of an hour", func(c *Config) { c.BatchAge = 1 << 42 }, "batch_age: "},
		{"a checkpoint interval too short", func(c *Config) { c.CheckpointInterval = 1 }, "checkpoint_interval: "},
		{"a short token", func(c *Config) { c.SubmitToken = []byte("secret") }, "submit: token_file: the token has 6 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := cfg
			test.set(&cfg)
			l, err := Open(t.Context(), cfg)
			if err == nil {
				shutdown(t, l)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestOpenRefusesAnotherLogsKey(t *testing.T) {
	t.Parallel()
	cfg, other := newConfig(t), newConfig(t)
	for _, test := range []struct {
		name string
		set  func(*Config)
	}{
		{"key", func(c *Config) { c.Key = other.Key }},
		{"origin", func(c *Config) { c.Origin = "log.example/2025" }},
	} {
		wrong := cfg
		test.set(&wrong)
		_, err := Open(t.Context(), wrong)
		var at *keypath.Error
		if !errors.As(err, &at) || at.Path[0] != "key" || !strings.Contains(err.Error(), "key or origin are another log's") {
			t.Errorf("another log's %s: got %v", test.name, err)
		}
	}
	shutdown(t, open(t, cfg))
}

// TestOpenNeverMakesALog: Open must not replace a lost directory with an empty log.
func TestOpenNeverMakesALog(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "an empty directory"} {
		if dir != "" {
			if err := os.Mkdir(cfg.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "holds no log") {
			t.Errorf("got %v", err)
		}
	}
	if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) > 0 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestRefusedLogTellsSubmittersNothing(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	remove(t, cfg.Guard)
	l := openSpoilt(t, cfg)
	status, header, body := post(t, serve(t, l)+"/ct/v1/add-pre-chain", testToken, chainJSON(t, a.submission(t).Chain))
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || strings.Contains(body, cfg.Guard) || !strings.Contains(body, "error_message") {
		t.Errorf("%d %v %s", status, header, body)
	}
	var retryable *ctlog.RetryableError
	if _, err := l.Submit(t.Context(), a.submission(t)); errors.As(err, &retryable) {
		t.Errorf("%v is not to be tried again", err)
	}
}

func restore(t *testing.T, cfg Config, backup string) {
	t.Helper()
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	copyDir(t, backup, cfg.Dir)
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

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
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

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(content, []byte(from)) {
		t.Fatalf("%s holds no %q: %v", path, from, err)
	}
	write(t, path, bytes.Replace(content, []byte(from), []byte(to), 1))
}

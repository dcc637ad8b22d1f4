// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// write replaces name by an atomic rename.
func write(t *testing.T, name, content string) {
	t.Helper()
	temporary := name + ".new"
	if err := os.WriteFile(temporary, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, name); err != nil {
		t.Fatal(err)
	}
}

// swap points the directory's ..data at a new folder that holds key, as Kubernetes does.
func swap(t *testing.T, dir, version, content string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, version, "tls.key"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func TestRenameOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "cert.pem")
	write(t, name, "one")
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		w := New(Config{
			Name:  "certificate",
			Files: []string{name},
			Reload: func() error {
				content, err := os.ReadFile(name)
				seen = append(seen, string(content))
				switch string(content) {
				case "bad":
					return errors.New("bad")
				case "panic":
					panic("bad")
				}
				return err
			},
			Logger: slog.New(slog.DiscardHandler), Metric: "m", FailedMetric: "m_failed", Registry: prometheus.NewRegistry(),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		time.Sleep(Interval / 2) // between two readings
		for _, step := range []struct {
			content string
			fails   bool
		}{{"one", false}, {"two", false}, {"two", false}, {"bad", true}, {"bad", true}, {"panic", true}, {"three", false}} {
			write(t, name, step.content)
			time.Sleep(3 * Interval) // the bubble's clock: no real time passes
			if failed := w.Failure() != nil; failed != step.fails {
				t.Errorf("after %q the failure is %v", step.content, w.Failure())
			}
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * Interval)
		write(t, name, "three")
		time.Sleep(2 * Interval)
		cancel()
		<-done
		if diff := cmp.Diff([]string{"two", "bad", "bad", "panic", "three", "", "three"}, seen); diff != "" {
			t.Errorf("contents that were loaded (-want +got):\n%s", diff)
		}
	})
}

func TestKubernetesSwapThreeTimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	swap(t, dir, "..1", "one")
	name := filepath.Join(dir, "tls.key")
	if err := os.Symlink(filepath.Join("..data", "tls.key"), name); err != nil {
		t.Fatal(err)
	}
	var seen []string
	w := New(Config{
		Files: []string{name},
		Reload: func() error {
			content, err := os.ReadFile(name)
			seen = append(seen, string(content))
			return err
		},
		Logger: slog.New(slog.DiscardHandler), Metric: "m", FailedMetric: "m_failed", Registry: prometheus.NewRegistry(),
	})
	for i, content := range []string{"two", "three", "four"} {
		swap(t, dir, "..2"+string(rune('a'+i)), content)
		w.poll(t.Context())
		w.poll(t.Context())
	}
	if diff := cmp.Diff([]string{"two", "three", "four"}, seen); diff != "" {
		t.Errorf("contents that were loaded (-want +got):\n%s", diff)
	}
}

// A reload that failed for another reason than the content must not wait for the next change,
// which may be months away.
func TestFailedReloadIsTriedAgain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "cert.pem")
	write(t, name, "one")
	synctest.Test(t, func(t *testing.T) {
		second := 0
		var calls []int
		w := New(Config{
			Files: []string{name},
			Reload: func() error {
				if calls = append(calls, second); len(calls) < 8 {
					return errors.New("too many open files")
				}
				return nil
			},
			Logger: slog.New(slog.DiscardHandler), Metric: "m", FailedMetric: "m_failed", Registry: prometheus.NewRegistry(),
		})
		write(t, name, "two")
		w.poll(t.Context()) // the change is noticed, and loaded once it rests
		for second = range 300 {
			w.poll(t.Context())
			time.Sleep(Interval) // the bubble's clock
		}
		if diff := cmp.Diff([]int{0, 2, 6, 14, 30, 60, 90, 120}, calls); diff != "" {
			t.Errorf("seconds at which Reload was called (-want +got):\n%s", diff)
		}
	})
}

// The watcher also watches the files that the content of one file names, as soon as it names
// them.
func TestFilesThatAFileNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list, one, two := filepath.Join(dir, "list"), filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, list, one)
	write(t, one, "1")
	write(t, two, "1")
	reloads := 0
	w := New(Config{
		Files: []string{list},
		More: func() []string {
			content, err := os.ReadFile(list)
			if err != nil {
				return nil
			}
			return []string{string(content)}
		},
		Reload: func() error { reloads++; return nil },
		Logger: slog.New(slog.DiscardHandler), Metric: "m", FailedMetric: "m_failed", Registry: prometheus.NewRegistry(),
	})
	for i, step := range []struct {
		name, content string
		want          int
	}{{two, "2", 0}, {one, "2", 1}, {list, two, 2}, {one, "3", 2}, {two, "3", 3}} {
		write(t, step.name, step.content)
		w.poll(t.Context())
		w.poll(t.Context())
		if reloads != step.want {
			t.Errorf("after step %d: %d reloads, want %d", i, reloads, step.want)
		}
	}
}

// A file that is written in place, line by line, can be well-formed long before it is complete.
func TestWaitsUntilTheContentRests(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "ca.yaml")
	write(t, name, "generation: 1\n")
	var seen []string
	w := New(Config{
		Files: []string{name},
		Reload: func() error {
			content, err := os.ReadFile(name)
			seen = append(seen, string(content))
			return err
		},
		Logger: slog.New(slog.DiscardHandler), Metric: "m", FailedMetric: "m_failed", Registry: prometheus.NewRegistry(),
	})
	for _, content := range []string{"", "generation: 2\n", "generation: 2\nauthorities: []\n", "generation: 2\nauthorities: [a]\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		w.poll(t.Context())
	}
	if len(seen) != 0 {
		t.Errorf("what was still being written was loaded: %q", seen)
	}
	w.poll(t.Context())
	w.poll(t.Context())
	if diff := cmp.Diff([]string{"generation: 2\nauthorities: [a]\n"}, seen); diff != "" {
		t.Errorf("contents that were loaded (-want +got):\n%s", diff)
	}
}

// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// group is a watched group of files, and the contents of the first one at each reload.
type group struct {
	*Watcher
	t     *testing.T
	names []string
	seen  []string
}

// watch watches names. The first one's content decides how a reload fails.
func watch(t *testing.T, names ...string) *group {
	g := &group{t: t, names: names}
	g.Watcher = New(Config{
		Files: func() []string { return g.names },
		Reload: func() error {
			content, err := os.ReadFile(names[0])
			g.seen = append(g.seen, string(content))
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
	return g
}

// polled polls n times, and requires the contents that have been loaded by then.
func (g *group) polled(n int, want ...string) {
	g.t.Helper()
	for range n {
		g.poll(g.t.Context())
	}
	if diff := cmp.Diff(want, g.seen); diff != "" {
		g.t.Errorf("contents that were loaded (-want +got):\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write replaces name by an atomic rename.
func write(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.WriteFile(name+".new", []byte(content), 0o600))
	must(t, os.Rename(name+".new", name))
}

func TestRenameOver(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "cert.pem")
	write(t, name, "one")
	synctest.Test(t, func(t *testing.T) {
		g := watch(t, name)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); g.Run(ctx) }()
		time.Sleep(Interval / 2) // between two readings
		for _, step := range []struct {
			content string
			fails   bool
		}{{"one", false}, {"two", false}, {"two", false}, {"bad", true}, {"bad", true}, {"panic", true}, {"three", false}} {
			write(t, name, step.content)
			time.Sleep(3 * Interval) // the bubble's clock: no real time passes
			if failed := g.Failure() != nil; failed != step.fails {
				t.Errorf("after %q the failure is %v", step.content, g.Failure())
			}
		}
		must(t, os.Remove(name))
		time.Sleep(3 * Interval)
		write(t, name, "three")
		time.Sleep(2 * Interval)
		cancel()
		<-done
		g.polled(0, "two", "bad", "bad", "panic", "three", "", "three")
	})
}

// Kubernetes replaces the link ..data by one to a new folder.
func TestKubernetesSwapThreeTimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	swap := func(content string) {
		must(t, os.Mkdir(filepath.Join(dir, "..of-"+content), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "..of-"+content, "tls.key"), []byte(content), 0o600))
		must(t, os.Symlink("..of-"+content, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	swap("one")
	name := filepath.Join(dir, "tls.key")
	must(t, os.Symlink(filepath.Join("..data", "tls.key"), name))
	g := watch(t, name)
	swap("two")
	g.polled(2, "two")
	swap("three")
	g.polled(2, "two", "three")
	swap("four")
	g.polled(2, "two", "three", "four")
}

// A reload that failed for another reason than the content must not wait for the next change, which
// may be months away. The content of any file of the group counts.
func TestFailedReloadIsTriedAgain(t *testing.T) {
	t.Parallel()
	name, other := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	write(t, name, "bad")
	synctest.Test(t, func(t *testing.T) {
		g := watch(t, name, other)
		write(t, other, "two")
		g.polled(1) // the change is noticed, and loaded once it rests
		var calls []int
		for second := range 125 {
			before := len(g.seen)
			if g.poll(t.Context()); len(g.seen) > before {
				calls = append(calls, second)
			}
			time.Sleep(Interval) // the bubble's clock
		}
		if diff := cmp.Diff([]int{0, 2, 6, 14, 30, 60, 90, 120}, calls); diff != "" {
			t.Errorf("seconds at which Reload was called (-want +got):\n%s", diff)
		}
	})
}

// A file that is written in place, line by line, can be well-formed long before it is complete. A file that
// joins the group is watched from then on.
func TestWaitsUntilTheContentRests(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "ca.yaml")
	write(t, name, "generation: 1\n")
	g := watch(t, name)
	for _, content := range []string{"", "generation: 2\n", "generation: 2\nauthorities: []\n", "generation: 2\nauthorities: [a]\n"} {
		must(t, os.WriteFile(name, []byte(content), 0o600))
		g.polled(1)
	}
	const last = "generation: 2\nauthorities: [a]\n"
	g.polled(2, last)
	chain := filepath.Join(t.TempDir(), "chain.pem")
	g.names = append(g.names, chain)
	g.polled(2, last, last)
	write(t, chain, "one")
	g.polled(2, last, last, last)
}

// A quiet watcher loads the content at the start too, once, and logs only what is wrong.
func TestQuiet(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "mayfly.yaml")
	var log bytes.Buffer
	g := &group{t: t}
	g.Watcher = New(Config{Files: func() []string { return []string{name} }, Logger: slog.New(slog.NewTextHandler(&log, nil)), Quiet: true, Reload: func() error {
		content, _ := os.ReadFile(name)
		if g.seen = append(g.seen, string(content)); string(content) == "bad" {
			panic("bad")
		}
		return nil
	}})
	write(t, name, "one")
	g.polled(3, "one")
	must(t, os.Remove(name))
	g.polled(3, "one", "")
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
	write(t, name, "bad")
	g.polled(3, "one", "", "bad")
	if !strings.Contains(log.String(), "panic while loading") {
		t.Errorf("log: %s", &log)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package watch finds changed files by polling their content. Notifications of the operating
// system miss a rename over the file and Kubernetes' swap of the `..data` symlink, and then
// watch nothing. One watcher serves TLS certificates, issuer files and CA sets alike. It may
// be imported by app and cmd.
package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// Interval is how often the watcher reads the files. It loads content once two readings in a
// row have found the same: a file that is still being written in place may be well-formed
// half-way, such as a CA set that lacks its last line.
const Interval = time.Second

// The watcher retries content that fails to load, first after FirstRetry, then after twice as
// long each time, up to RetryInterval. The failure may have another cause: no free file
// descriptor, an unreachable signer, or a signer that has not loaded the same content yet.
const (
	FirstRetry    = 2 * time.Second
	RetryInterval = 30 * time.Second
)

// maxFileSize bounds what is read of one file.
const maxFileSize = 4 << 20

// Config states what to watch and what to do.
type Config struct {
	// Name names the files in log records, as in "TLS certificate".
	Name string
	// Files are read together: Reload is called once for a change in any of them.
	Files []string
	// More, where it is not nil, returns the other files of the group: those that the content
	// of Files names. The watcher calls it before each reading.
	More func() []string
	// Reload loads the new content from the files. Where it returns an error, the loaded
	// content stays, the watcher logs the error, and calls Reload again at the next change or
	// after a while.
	Reload func() error
	// Observe, where it is not nil, receives the outcome of each reload.
	Observe func(error)
	Logger  *slog.Logger
}

// Watcher watches one group of files. Its Run may be called once.
type Watcher struct {
	config Config
	// digest is of the content at the last call of Reload, and latest of the last reading.
	digest, latest [sha256.Size]byte
	// retryAt is when to call Reload again for the same content, after failures times; zero if
	// Reload succeeded.
	retryAt  time.Time
	failures int
}

// New returns a watcher that treats the present content of the files as known. Call it before
// the files are loaded for the first time, so that no change falls in between.
func New(config Config) *Watcher {
	w := &Watcher{config: config}
	w.digest = digest(w.files())
	w.latest = w.digest
	return w
}

// Run polls until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.poll(ctx)
		}
	}
}

// poll reloads if the content differs from the content at the last call of Reload, and two
// readings agree. Reload decides whether an unreadable file matters.
func (w *Watcher) poll(ctx context.Context) {
	files := w.files()
	now := digest(files)
	resting := now == w.latest
	w.latest = now
	again := !w.retryAt.IsZero() && !time.Now().Before(w.retryAt)
	if !resting || now == w.digest && !again {
		return
	}
	if now != w.digest {
		w.failures = 0
	}
	w.digest, w.retryAt = now, time.Time{}
	err := w.config.Reload()
	if err != nil {
		w.retryAt = time.Now().Add(min(FirstRetry<<min(w.failures, 10), RetryInterval))
		w.failures++
	}
	if w.config.Observe != nil {
		w.config.Observe(err)
	}
	if err != nil {
		w.config.Logger.LogAttrs(ctx, slog.LevelError, "reloading: the last good one stays in use",
			slog.String("what", w.config.Name), slog.Any("files", files), slog.String("error", err.Error()))
		return
	}
	w.config.Logger.LogAttrs(ctx, slog.LevelInfo, "reloaded", slog.String("what", w.config.Name), slog.Any("files", files))
}

// files returns the files that belong to the group now.
func (w *Watcher) files() []string {
	if w.config.More == nil {
		return w.config.Files
	}
	return slices.Concat(w.config.Files, w.config.More())
}

// digest is the SHA-256 over the length and content of each file; the error text of a file
// that cannot be read counts as its content.
func digest(names []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range names {
		content, readErr := files.Read(name, maxFileSize)
		if readErr != nil {
			content = []byte(readErr.Error())
		}
		fmt.Fprintf(h, "%d %t\n", len(content), readErr == nil)
		h.Write(content)
	}
	h.Sum(sum[:0])
	return sum
}

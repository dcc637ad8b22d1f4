// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	// maxTile bounds an answer with entries: a batch of a public log has about 1 MiB.
	maxTile = 16 << 20
	// maxTreeSize is the number of entries that a leaf_index can name (static-ct-api: uint40).
	maxTreeSize = 1 << 40
	// parallel is how many answers of one log are read at a time.
	parallel = 8
	// maxTries and maxBackoff bound how often and how long a busy log is asked again.
	maxTries   = 5
	maxBackoff = 30 * time.Second
	// Entries are in the tree within the log's maximum merge delay: at most a minute (static-ct-api), and
	// a day for logs of RFC 6962.
	staticDisorder  = time.Hour
	rfc6962Disorder = 24 * time.Hour
)

// Config states which log to read over HTTP.
type Config struct {
	// URL is the log's base URL; of a static-ct-api log, the monitoring prefix.
	URL string
	// Key verifies the tree head; nil verifies nothing.
	Key *ctlog.PublicKey
	// Backoff is how long to wait before a busy log is asked again, at first; zero for a second.
	Backoff time.Duration
}

// remote is a log over HTTP.
type remote struct {
	log     *ctlog.Remote
	backoff time.Duration
}

// Open is OpenRemote for the log of the URL. The warnings concern the URL.
func Open(ctx context.Context, cfg Config) (s *Source, warnings []error, err error) {
	log, warnings, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: cfg.URL, Reads: true})
	if err != nil {
		return nil, nil, err
	}
	s, err = OpenRemote(ctx, log, cfg)
	return s, warnings, err
}

// OpenRemote asks a log for its newest tree head: a static-ct-api log, or one of RFC 6962 where the log
// has no checkpoint. With a key, the head is verified; that the entries are those of the head is not.
func OpenRemote(ctx context.Context, log *ctlog.Remote, cfg Config) (s *Source, err error) {
	r := &remote{log: log, backoff: cmp.Or(cfg.Backoff, time.Second)}
	s = &Source{Parallel: parallel, Disorder: staticDisorder, Read: r.readTile}
	raw, err := log.Checkpoint(ctx)
	var refused *ctlog.StatusError
	switch {
	case err == nil:
		checkpoint, errRead := ReadCheckpoint(raw, cfg.Key)
		if errRead != nil {
			return nil, fmt.Errorf("the checkpoint of the log %s: %w", log.Name(), errRead)
		}
		s.Head = checkpoint.Head
		if cfg.Key != nil {
			s.Signed = checkpoint.Time()
		}
	case errors.As(err, &refused) && refused.StatusCode >= 400 && refused.StatusCode < 500:
		head, errHead := log.TreeHead(ctx, cfg.Key)
		if errors.As(errHead, new(*ctlog.StatusError)) {
			return nil, fmt.Errorf("this is the URL of neither a static-ct-api log nor a log of RFC 6962: %w", errors.Join(err, errHead))
		}
		if errHead != nil {
			return nil, errHead
		}
		s.Head, s.Signed = Head{head.TreeSize, head.SHA256RootHash}, ctlog.Time(head.Timestamp)
		s.Disorder, s.Read = rfc6962Disorder, r.getEntries
	default:
		return nil, err
	}
	if s.Head.Size > maxTreeSize {
		return nil, fmt.Errorf("the log %s states that it has %d entries; a log has at most 2^40", log.Name(), s.Head.Size)
	}
	return s, nil
}

// get asks the log again while it is busy.
func (r *remote) get(ctx context.Context, path string, most int) (body []byte, err error) {
	for try := range maxTries {
		body, err = r.log.Get(ctx, path, most)
		var busy *ctlog.RetryableError
		if !errors.As(err, &busy) || try == maxTries-1 {
			break
		}
		select {
		case <-time.After(min(max(busy.After, r.backoff<<try), maxBackoff)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return body, err
}

func (r *remote) readTile(ctx context.Context, first, end uint64) ([]*Entry, error) {
	width := end - first
	body, err := r.get(ctx, "/tile/data/"+layout.NWithSuffix(0, first/Batch, uint8(width%Batch)), maxTile)
	var refused *ctlog.StatusError
	if width < Batch && errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		// A log may delete a partial tile once it has the full one (static-ct-api, section "Partial Tiles").
		body, err = r.get(ctx, "/tile/data/"+layout.NWithSuffix(0, first/Batch, 0), maxTile)
	}
	if err != nil {
		return nil, err
	}
	entries, in := make([]*Entry, 0, width), bytes.NewReader(body)
	for index := first; index < end; index++ {
		entry, err := ReadEntry(in)
		if err == nil && entry.Index != index {
			err = fmt.Errorf("it has the index %d", entry.Index)
		}
		if err != nil {
			return nil, r.invalid("entry %d: %w", index, err)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (r *remote) invalid(format string, args ...any) error {
	return &ctlog.InvalidError{Err: fmt.Errorf("the log "+r.log.Name()+": "+format, args...)}
}

// getEntries reads a batch of a log of RFC 6962, which may answer with fewer entries than it was asked
// for (section 4.6).
func (r *remote) getEntries(ctx context.Context, first, end uint64) (entries []*Entry, err error) {
	for first < end {
		body, err := r.get(ctx, fmt.Sprintf("%s?start=%d&end=%d", ct.GetEntriesPath, first, end-1), maxTile)
		if err != nil {
			return nil, err
		}
		var answer ct.GetEntriesResponse
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, r.invalid("get-entries: %w", err)
		}
		if n := len(answer.Entries); n == 0 || uint64(n) > end-first {
			return nil, r.invalid("get-entries returns %d entries; 1 to %d were asked for", n, end-first)
		}
		for i := range answer.Entries {
			entry, err := leafEntry(first, &answer.Entries[i])
			if err != nil {
				return nil, r.invalid("entry %d: %w", first, err)
			}
			entries = append(entries, entry)
			first++
		}
	}
	return entries, nil
}

// leafEntry reads an entry of get-entries.
func leafEntry(index uint64, leaf *ct.LeafEntry) (*Entry, error) {
	raw, err := ct.RawLogEntryFromLeaf(int64(index), leaf)
	if err == nil && raw.Leaf.Version != ct.V1 {
		err = fmt.Errorf("its version is %d; 0 (v1) is expected", raw.Leaf.Version)
	}
	if err != nil {
		return nil, err
	}
	stamped := raw.Leaf.TimestampedEntry
	return &Entry{
		Index: index, Timestamp: stamped.Timestamp, Precert: stamped.EntryType == ct.PrecertLogEntryType,
		Certificate: raw.Cert.Data, Timestamped: leaf.LeafInput[2:],
	}, nil
}

// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

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
	head    Head
}

// Open asks a log for its newest tree head: a static-ct-api log, or one of RFC 6962 where the log has
// no checkpoint. With a key, the head is verified, and every batch of a static-ct-api log is proven
// to be in it. A log of RFC 6962 has no proof for a batch. The warnings concern the URL.
func Open(ctx context.Context, cfg Config) (s *Source, warnings []error, err error) {
	log, warnings, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: cfg.URL, Reads: true})
	if err != nil {
		return nil, nil, err
	}
	r := &remote{log: log, backoff: cfg.Backoff}
	if r.backoff == 0 {
		r.backoff = time.Second
	}
	s = &Source{Parallel: parallel, Disorder: staticDisorder, Read: r.readTile, Proven: cfg.Key != nil}
	raw, err := log.Checkpoint(ctx)
	var refused *ctlog.StatusError
	switch {
	case err == nil:
		checkpoint, errRead := ReadCheckpoint(raw, cfg.Key)
		if errRead != nil {
			return nil, nil, &ctlog.InvalidError{Err: fmt.Errorf("the checkpoint of the log %s: %w", log.Name(), errRead)}
		}
		s.Head = checkpoint.Head
		if cfg.Key != nil {
			s.Signed = checkpoint.Time()
			s.Read = r.readProvenTile
		}
	case errors.As(err, &refused) && refused.StatusCode >= 400 && refused.StatusCode < 500:
		head, errHead := log.TreeHead(ctx, cfg.Key)
		if errors.As(errHead, new(*ctlog.StatusError)) {
			return nil, nil, fmt.Errorf("this is the URL of neither a static-ct-api log nor a log of RFC 6962: %w", errors.Join(err, errHead))
		}
		if errHead != nil {
			return nil, nil, errHead
		}
		s.Head, s.Signed = Head{head.TreeSize, head.SHA256RootHash}, time.UnixMilli(int64(head.Timestamp)).UTC()
		s.Disorder, s.Read, s.Proven = rfc6962Disorder, r.getEntries, false
	default:
		return nil, nil, err
	}
	if s.Head.Size > maxTreeSize {
		return nil, nil, fmt.Errorf("the log %s states that it has %d entries; a log has at most 2^40", log.Name(), s.Head.Size)
	}
	r.head = s.Head
	return s, warnings, nil
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

// getTile returns a tile of width entries or hashes. A log may delete a partial tile once it has the
// full one (static-ct-api, section "Partial Tiles").
func (r *remote) getTile(ctx context.Context, name func(partial uint8) string, width, most int) ([]byte, error) {
	body, err := r.get(ctx, "/"+name(uint8(width%Batch)), most)
	var refused *ctlog.StatusError
	if width < Batch && errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		body, err = r.get(ctx, "/"+name(0), most)
	}
	return body, err
}

func (r *remote) readTile(ctx context.Context, first, end uint64) ([]*Entry, error) {
	name := func(partial uint8) string { return "tile/data/" + layout.NWithSuffix(0, first/Batch, partial) }
	body, err := r.getTile(ctx, name, int(end-first), maxTile)
	if err != nil {
		return nil, err
	}
	entries, in := make([]*Entry, 0, end-first), bytes.NewReader(body)
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

// readProvenTile proves with the tiles of hashes that the entries are in the tree.
func (r *remote) readProvenTile(ctx context.Context, first, end uint64) ([]*Entry, error) {
	entries, err := r.readTile(ctx, first, end)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, len(entries))
	for i := range entries {
		indexes[i] = tlog.StoredHashIndex(0, int64(first)+int64(i))
	}
	tree := tlog.Tree{N: int64(r.head.Size), Hash: tlog.Hash(r.head.Root)}
	hashes, err := tlog.TileHashReader(tree, hashTiles{ctx, r}).ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("proving the entries from %d of the log %s: %w", first, r.log.Name(), err)
	}
	for i, entry := range entries {
		if !bytes.Equal(entry.Hash(), hashes[i][:]) {
			return nil, r.invalid("entry %d is not the one in its tree", entry.Index)
		}
	}
	return entries, nil
}

// hashTiles reads the tiles of hashes for a tlog.TileHashReader, which proves them.
type hashTiles struct {
	ctx context.Context
	*remote
}

// Height returns the height of a tile.
func (hashTiles) Height() int { return layout.TileHeight }

// SaveTiles keeps nothing: a batch needs one tile of each level.
func (hashTiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles returns the content of each tile.
func (h hashTiles) ReadTiles(tiles []tlog.Tile) (contents [][]byte, err error) {
	for _, tile := range tiles {
		name := func(partial uint8) string { return layout.TilePath(uint64(tile.L), uint64(tile.N), partial) }
		body, err := h.getTile(h.ctx, name, tile.W, Batch*tlog.HashSize)
		if err == nil && len(body) < tile.W*tlog.HashSize {
			err = h.invalid("the tile %s has %d bytes", name(0), len(body))
		}
		if err != nil {
			return nil, err
		}
		contents = append(contents, body[:tile.W*tlog.HashSize])
	}
	return contents, nil
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

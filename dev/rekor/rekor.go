// SPDX-License-Identifier: Apache-2.0

// Package rekor is a transparency log for signatures with the API of Rekor v2, for a development
// world: some verifiers require such a log. Tessera's POSIX driver stores it in one directory.
// Nothing protects it against a restore from a backup, and it has no rate limit. It is not for
// production.
//
// Only package dev may import it.
package rekor

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
)

// Config is the configuration of a log.
type Config struct {
	// Dir is the log's directory, which is created if it does not exist.
	Dir string
	// Origin is the name in checkpoints. Verifiers expect the host, without port, of the URL that the
	// trusted root has for the log.
	Origin string
	// Key is the log's key, ECDSA P-256.
	Key *ecdsa.PrivateKey
}

const (
	batchAge = 10 * time.Millisecond
	// checkpointInterval is the shortest that the driver accepts. It is most of the time that a signer
	// waits.
	checkpointInterval = 100 * time.Millisecond
	pollInterval       = 10 * time.Millisecond
)

// Log is an http.Handler for the API below /api/v2/. It is safe for concurrent use.
type Log struct {
	mux      *http.ServeMux
	id       [sha256.Size]byte
	spki     []byte
	appender *tessera.Appender
	awaiter  *tessera.PublicationAwaiter
	reader   tessera.LogReader
	shutdown func(context.Context) error
	cancel   context.CancelFunc
	done     <-chan struct{} // closed by cancel
}

// Open opens the log, which runs until Close.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	spki, err := x509.MarshalPKIXPublicKey(cfg.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("marshalling log key: %w", err)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Log{id: sha256.Sum256(spki), spki: spki, cancel: cancel, done: running.Done()}
	driver, err := posix.New(running, posix.Config{Path: cfg.Dir})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening the Rekor log: %w", err)
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(noteSigner{cfg.Origin, cfg.Key, l.id}).
		WithBatching(256, batchAge).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(10 * time.Minute)
	l.appender, l.shutdown, l.reader, err = tessera.NewAppender(running, driver, options)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening the Rekor log in %s: %w", cfg.Dir, err)
	}
	l.awaiter = tessera.NewPublicationAwaiter(running, l.reader.ReadCheckpoint, pollInterval)
	l.routes(cfg.Dir)
	return l, nil
}

// PublicKey is the log's key, a SubjectPublicKeyInfo.
func (l *Log) PublicKey() []byte { return l.spki }

// Close publishes a checkpoint for all that was added, and stops the log.
func (l *Log) Close(ctx context.Context) error {
	defer l.cancel()
	return l.shutdown(ctx)
}

// add appends an entry and returns its proof once a checkpoint covers it.
func (l *Log) add(ctx context.Context, entry []byte) (*rekorv1.InclusionProof, error) {
	type published struct {
		index      tessera.Index
		checkpoint []byte
		err        error
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The awaiter ignores contexts while it waits, and none of its calls resolves after the log has
	// been closed.
	result := make(chan published, 1)
	go func() {
		index, checkpoint, err := l.awaiter.Await(ctx, l.appender.Add(ctx, tessera.NewEntry(entry)))
		result <- published{index, checkpoint, err}
	}()
	var p published
	select {
	case p = <-result:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.done:
		return nil, errors.New("the log has been closed")
	}
	if p.err != nil {
		return nil, fmt.Errorf("appending entry: %w", p.err)
	}
	return l.prove(ctx, p.index.Index, p.checkpoint)
}

// prove builds the inclusion proof in the tree of checkpoint, which this log has just signed.
func (l *Log) prove(ctx context.Context, index uint64, checkpoint []byte) (*rekorv1.InclusionProof, error) {
	var tree log.Checkpoint
	if _, err := tree.Unmarshal(checkpoint); err != nil {
		return nil, fmt.Errorf("reading checkpoint: %w", err)
	}
	builder, err := client.NewProofBuilder(ctx, tree.Size, l.reader.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("building inclusion proof: %w", err)
	}
	hashes, err := builder.InclusionProof(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("building inclusion proof: %w", err)
	}
	return &rekorv1.InclusionProof{
		LogIndex: int64(index), TreeSize: int64(tree.Size), RootHash: tree.Hash, Hashes: hashes,
		Checkpoint: &rekorv1.Checkpoint{Envelope: string(checkpoint)},
	}, nil
}

// noteSigner signs checkpoints as Rekor v2 does with an ECDSA key: over the SHA-256 of the
// text, under a key ID that is the beginning of the log ID.
type noteSigner struct {
	origin string
	key    *ecdsa.PrivateKey
	id     [sha256.Size]byte
}

func (s noteSigner) Name() string    { return s.origin }
func (s noteSigner) KeyHash() uint32 { return binary.BigEndian.Uint32(s.id[:]) }
func (s noteSigner) Sign(text []byte) ([]byte, error) {
	digest := sha256.Sum256(text)
	return ecdsa.SignASN1(rand.Reader, s.key, digest[:])
}

// SPDX-License-Identifier: Apache-2.0

// Package rekor is a transparency log for signatures with the API of Rekor v2, for a development
// world: some verifiers require such a log. Nothing protects it against a restore from a backup, and
// it has no rate limit.
//
// Only package dev may import it.
package rekor

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
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
	maxRequest = 4 << 20
	batchAge   = 10 * time.Millisecond
	// checkpointInterval is the shortest that the driver accepts. It is most of the time that a signer
	// waits.
	checkpointInterval = 100 * time.Millisecond
	pollInterval       = 10 * time.Millisecond
)

// Log is an http.Handler for the API below /api/v2/. It is safe for concurrent use.
type Log struct {
	*http.ServeMux
	id       []byte
	appender *tessera.Appender
	awaiter  *tessera.PublicationAwaiter
	reader   tessera.LogReader
	shutdown func(context.Context) error
	cancel   context.CancelFunc
}

// Open opens the log, which runs until Close.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			cancel()
			err = fmt.Errorf("opening the Rekor log in %s: %w", cfg.Dir, err)
		}
	}()
	l := &Log{cancel: cancel}
	if _, l.id, err = note.KeyHash(cfg.Origin, cfg.Key.Public()); err != nil {
		return nil, err
	}
	key, err := signature.LoadECDSASigner(cfg.Key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	signer, err := note.NewNoteSigner(running, cfg.Origin, key)
	if err != nil {
		return nil, err
	}
	driver, err := posix.New(running, posix.Config{Path: cfg.Dir})
	if err != nil {
		return nil, err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(256, batchAge).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(10 * time.Minute)
	if l.appender, l.shutdown, l.reader, err = tessera.NewAppender(running, driver, options); err != nil {
		return nil, err
	}
	l.awaiter = tessera.NewPublicationAwaiter(running, l.reader.ReadCheckpoint, pollInterval)
	l.ServeMux = l.routes(cfg.Dir)
	return l, nil
}

// Close publishes a checkpoint for all that was added, and stops the log.
func (l *Log) Close(ctx context.Context) error {
	defer l.cancel()
	return l.shutdown(ctx)
}

// routes serves Rekor v2's REST API. The driver's files are the answers of the reading side.
func (l *Log) routes(dir string) *http.ServeMux {
	tiles := http.StripPrefix("/api/v2/tile", http.FileServerFS(os.DirFS(filepath.Join(dir, "tile"))))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/log/entries", l.createEntry)
	mux.HandleFunc("GET /api/v2/tile/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		tiles.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /api/v2/checkpoint", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		http.ServeFile(w, r, filepath.Join(dir, "checkpoint"))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"SERVING"}`)
	})
	return mux
}

// createEntry answers with the TransparencyLogEntry that clients put into bundles, or in the form of a
// gRPC gateway.
func (l *Log) createEntry(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	refuse := func(status int, code codes.Code, err error) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": err.Error(), "details": []any{}})
	}
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		refuse(http.StatusBadRequest, codes.InvalidArgument, fmt.Errorf("reading the request: %w", err))
		return
	}
	entry, err := parseRequest(request)
	if err != nil {
		refuse(http.StatusBadRequest, codes.InvalidArgument, err)
		return
	}
	body, err := canonical(entry)
	var proof *rekorv1.InclusionProof
	if err == nil {
		proof, err = l.add(r.Context(), body)
	}
	if err != nil {
		refuse(http.StatusServiceUnavailable, codes.Unavailable, err)
		return
	}
	answer, err := protojson.Marshal(&rekorv1.TransparencyLogEntry{
		LogIndex:          proof.GetLogIndex(),
		LogId:             &common.LogId{KeyId: l.id},
		KindVersion:       &rekorv1.KindVersion{Kind: entry.GetKind(), Version: entry.GetApiVersion()},
		InclusionProof:    proof,
		CanonicalizedBody: body,
	})
	if err != nil {
		refuse(http.StatusServiceUnavailable, codes.Unavailable, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

// add appends an entry and returns its proof once a checkpoint covers it.
func (l *Log) add(ctx context.Context, entry []byte) (*rekorv1.InclusionProof, error) {
	index, checkpoint, err := l.awaiter.Await(ctx, l.appender.Add(ctx, tessera.NewEntry(entry)))
	if err != nil {
		return nil, fmt.Errorf("appending entry: %w", err)
	}
	return l.prove(ctx, index.Index, checkpoint)
}

// prove builds the inclusion proof in the tree of checkpoint, which this log has just signed.
func (l *Log) prove(ctx context.Context, index uint64, checkpoint []byte) (*rekorv1.InclusionProof, error) {
	var tree log.Checkpoint
	if _, err := tree.Unmarshal(checkpoint); err != nil {
		return nil, fmt.Errorf("reading checkpoint: %w", err)
	}
	var hashes [][]byte
	builder, err := client.NewProofBuilder(ctx, tree.Size, l.reader.ReadTile)
	if err == nil {
		hashes, err = builder.InclusionProof(ctx, index)
	}
	if err != nil {
		return nil, fmt.Errorf("building inclusion proof: %w", err)
	}
	return &rekorv1.InclusionProof{
		LogIndex: int64(index), TreeSize: int64(tree.Size), RootHash: tree.Hash, Hashes: hashes,
		Checkpoint: &rekorv1.Checkpoint{Envelope: string(checkpoint)},
	}, nil
}

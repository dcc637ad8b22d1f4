// SPDX-License-Identifier: Apache-2.0

package rekor

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"net/http"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/transparency-dev/tessera/api/layout"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

const maxRequest = 4 << 20

// ServeHTTP serves Rekor v2's REST API.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.mux.ServeHTTP(w, r) }

func (l *Log) routes() {
	l.mux = http.NewServeMux()
	l.mux.HandleFunc("POST /api/v2/log/entries", l.createEntry)
	l.mux.HandleFunc("GET /api/v2/checkpoint", l.checkpoint)
	l.mux.HandleFunc("GET /api/v2/tile/entries/{index...}", l.entryBundle)
	l.mux.HandleFunc("GET /api/v2/tile/{level}/{index...}", l.tile)
	l.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"SERVING"}`)
	})
}

func (l *Log) createEntry(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		refuse(w, http.StatusBadRequest, codes.InvalidArgument, "reading the request: "+err.Error())
		return
	}
	entry, err := parseRequest(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, codes.InvalidArgument, err.Error())
		return
	}
	answer, err := l.log(r, entry)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, codes.Unavailable, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

// log appends an entry and returns the TransparencyLogEntry that clients put into bundles.
func (l *Log) log(r *http.Request, entry *rekorpb.Entry) ([]byte, error) {
	body, err := canonical(entry)
	if err != nil {
		return nil, err
	}
	in, err := l.add(r.Context(), body)
	if err != nil {
		return nil, err
	}
	if in.size > math.MaxInt64 {
		return nil, errors.New("the log is full")
	}
	return protojson.Marshal(&rekorv1.TransparencyLogEntry{
		LogIndex:    int64(in.index),
		LogId:       &common.LogId{KeyId: l.id[:]},
		KindVersion: &rekorv1.KindVersion{Kind: entry.GetKind(), Version: entry.GetApiVersion()},
		InclusionProof: &rekorv1.InclusionProof{
			LogIndex: int64(in.index), TreeSize: int64(in.size), RootHash: in.root, Hashes: in.hashes,
			Checkpoint: &rekorv1.Checkpoint{Envelope: string(in.checkpoint)},
		},
		CanonicalizedBody: body,
	})
}

func (l *Log) checkpoint(w http.ResponseWriter, r *http.Request) {
	content, err := l.reader.ReadCheckpoint(r.Context())
	w.Header().Set("Cache-Control", "no-cache")
	serve(w, "text/plain; charset=utf-8", content, err)
}

func (l *Log) tile(w http.ResponseWriter, r *http.Request) {
	level, index, partial, err := layout.ParseTileLevelIndexPartial(r.PathValue("level"), r.PathValue("index"))
	if err != nil {
		refuse(w, http.StatusBadRequest, codes.InvalidArgument, err.Error())
		return
	}
	content, err := l.reader.ReadTile(r.Context(), level, index, partial)
	serve(w, "application/octet-stream", content, err)
}

func (l *Log) entryBundle(w http.ResponseWriter, r *http.Request) {
	index, partial, err := layout.ParseTileIndexPartial(r.PathValue("index"))
	if err != nil {
		refuse(w, http.StatusBadRequest, codes.InvalidArgument, err.Error())
		return
	}
	content, err := l.reader.ReadEntryBundle(r.Context(), index, partial)
	serve(w, "application/octet-stream", content, err)
}

func serve(w http.ResponseWriter, contentType string, content []byte, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		refuse(w, http.StatusNotFound, codes.NotFound, "the log has no such tile")
	case err != nil:
		refuse(w, http.StatusInternalServerError, codes.Internal, err.Error())
	default:
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(content)
	}
}

// refuse answers in the form of a gRPC gateway.
func refuse(w http.ResponseWriter, status int, code codes.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message, "details": []any{}})
}

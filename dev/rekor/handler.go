// SPDX-License-Identifier: Apache-2.0

package rekor

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorv1 "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

const maxRequest = 4 << 20

// ServeHTTP serves Rekor v2's REST API.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.mux.ServeHTTP(w, r) }

func (l *Log) routes(dir string) {
	// The driver's files are the answers of the reading side.
	tiles := http.StripPrefix("/api/v2/tile", http.FileServerFS(os.DirFS(filepath.Join(dir, "tile"))))
	l.mux = http.NewServeMux()
	l.mux.HandleFunc("POST /api/v2/log/entries", l.createEntry)
	l.mux.HandleFunc("GET /api/v2/tile/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		tiles.ServeHTTP(w, r)
	})
	l.mux.HandleFunc("GET /api/v2/checkpoint", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		http.ServeFile(w, r, filepath.Join(dir, "checkpoint"))
	})
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
	proof, err := l.add(r.Context(), body)
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(&rekorv1.TransparencyLogEntry{
		LogIndex:          proof.GetLogIndex(),
		LogId:             &common.LogId{KeyId: l.id[:]},
		KindVersion:       &rekorv1.KindVersion{Kind: entry.GetKind(), Version: entry.GetApiVersion()},
		InclusionProof:    proof,
		CanonicalizedBody: body,
	})
}

// refuse answers in the form of a gRPC gateway.
func refuse(w http.ResponseWriter, status int, code codes.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": message, "details": []any{}})
}

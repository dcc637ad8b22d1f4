// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// How long clients may cache answers.
const (
	immutable = "public, max-age=31536000, immutable"
	mutable   = "no-cache"
	private   = "no-store"
)

// maxCompressors is how many data tiles are compressed at the same time. A compressor has 1.2 MiB.
const maxCompressors = 4

// endpoints are what the log serves, by path: a path that ends in a slash is a prefix. An answer that
// is an error determines the status.
var endpoints = map[string]struct {
	post, token bool
	answer      func(l *Log, w http.ResponseWriter, r *http.Request) error
}{
	"/checkpoint":                {answer: (*Log).getCheckpoint},
	"/tile/":                     {answer: (*Log).getTile},
	"/issuer/":                   {answer: (*Log).getIssuer},
	"/ct/v1/get-sth":             {answer: (*Log).getSTH},
	"/ct/v1/get-entries":         {answer: (*Log).getEntries},
	"/ct/v1/get-sth-consistency": {answer: (*Log).getConsistency},
	"/ct/v1/get-entry-and-proof": {answer: (*Log).getEntryAndProof},
	"/ct/v1/get-proof-by-hash":   {answer: (*Log).getProofByHash},
	"/ct/v1/get-roots":           {token: true, answer: (*Log).getRoots},
	"/ct/v1/add-chain":           {token: true, post: true, answer: (*Log).addChain},
	"/ct/v1/add-pre-chain":       {token: true, post: true, answer: (*Log).addChain},
}

// Handler serves the log under its prefix, which the caller strips: /checkpoint, /tile/…,
// /issuer/… (static-ct-api) and /ct/v1/… (RFC 6962). Errors are JSON objects with an
// error_message (RFC 6962, section 4).
func (l *Log) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := l.serve(w, r)
		if err == nil {
			return
		}
		answer := describeError(err)
		if answer.status >= http.StatusInternalServerError {
			l.failures.Log(r.Context(), slog.LevelWarn, "request to the log failed", slog.String("path", r.URL.Path), slog.Int("status", answer.status), slog.Any("error", err))
		}
		answer.write(w)
	})
}

func (l *Log) serve(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path
	for _, prefix := range []string{"/tile/", "/issuer/"} {
		if strings.HasPrefix(path, prefix) {
			path = prefix
		}
	}
	e, found := endpoints[path]
	switch {
	case !found:
		return refuse(http.StatusNotFound, "there is nothing at %.100q; a static-ct-api log has checkpoint, tile/, issuer/ and ct/v1/", r.URL.Path)
	case e.post && r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST")
	case !e.post && r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
	default:
		if e.token {
			if err := l.authorize(w, r); err != nil {
				return err
			}
		}
		return e.answer(l, w, r)
	}
	return refuse(http.StatusMethodNotAllowed, "%.20q is not for this path; use %s", r.Method, w.Header().Get("Allow"))
}

// httpError is an answer that reports an error.
type httpError struct {
	status     int
	message    string
	retryAfter time.Duration
}

// Error returns the message.
func (e *httpError) Error() string { return e.message }

func refuse(status int, format string, args ...any) error {
	return &httpError{status: status, message: fmt.Sprintf(format, args...)}
}

func (e *httpError) write(w http.ResponseWriter) {
	setHeader(w, "application/json", private)
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	w.WriteHeader(e.status)
	// Operators read the body with curl: do not escape < and &.
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(map[string]string{"error_message": e.message})
}

// describeError is the only place that turns an error into an answer. Errors that are not
// meant for clients stay in the process's log.
func describeError(err error) *httpError {
	var (
		answer    *httpError
		retryable *ctlog.RetryableError
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, new(*RefusedError)):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log signs nothing any more; its operator has been told why", retryAfter: time.Hour}
	case errors.As(err, &retryable):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log is busy; try again", retryAfter: max(retryable.After, time.Second)}
	case errors.As(err, new(*StorageError)), errors.Is(err, errClosed):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log takes no entries now; try again", retryAfter: 10 * time.Second}
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged):
		return &httpError{status: http.StatusNotFound, message: "the log has no such tile, issuer or entry"}
	default:
		return &httpError{status: http.StatusInternalServerError, message: "the log failed to answer; it has written down why"}
	}
}

// checkpoint returns the published checkpoint. It verifies each one at the first read, so
// that the log never serves a checkpoint that it did not sign.
func (l *Log) checkpoint() (*reader.Checkpoint, error) {
	c, err := l.directory.checkpoint(l.verifier(), l.verified.Load())
	if err != nil {
		return nil, err
	}
	l.verified.Store(c)
	return c, nil
}

func (l *Log) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	c, err := l.checkpoint()
	if err == nil {
		content(w, r, "text/plain; charset=utf-8", mutable, c.Raw)
	}
	return err
}

func setHeader(w http.ResponseWriter, kind, caching string) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", caching)
	h.Set("X-Content-Type-Options", "nosniff")
}

// content answers with a body in memory; http.ServeContent adds 304 and ranges.
func content(w http.ResponseWriter, r *http.Request, kind, caching string, body []byte) {
	setHeader(w, kind, caching)
	digest := sha256.Sum256(body)
	w.Header().Set("Etag", fmt.Sprintf(`"%x"`, digest[:16]))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func answerJSON(w http.ResponseWriter, r *http.Request, caching string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	content(w, r, "application/json", caching, append(body, '\n'))
	return nil
}

func (l *Log) getIssuer(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/issuer/")
	fingerprint, _ := hex.DecodeString(name)
	if len(fingerprint) != sha256.Size || hex.EncodeToString(fingerprint) != name {
		return fs.ErrNotExist
	}
	der, err := l.issuers.get([sha256.Size]byte(fingerprint))
	if err == nil {
		content(w, r, "application/pkix-cert", immutable, der)
	}
	return err
}

// getTile serves tile/<L>/<N>[.p/<W>] and tile/data/<N>[.p/<W>].
//
// getTile cuts a partial tile from the newest one. So the tile is right even where an
// interrupted batch left a file of that name, and available after its own file is deleted.
func (l *Log) getTile(w http.ResponseWriter, r *http.Request) error {
	t, wide, ok := parseTilePath(r.URL.Path)
	if !ok {
		return fs.ErrNotExist
	}
	c, err := l.checkpoint()
	if err != nil {
		return err
	}
	if t.width(c.Head.Size) < wide {
		return fs.ErrNotExist
	}
	if t.data {
		return l.sendDataTile(w, r, t, wide, c.Head.Size)
	}
	body, err := l.directory.hashTile(t, c.Head.Size)
	if err == nil {
		content(w, r, "application/octet-stream", immutable, body[:wide*hashSize])
	}
	return err
}

// sendDataTile answers with the first wide entries of a data tile, from its file. After the status
// has been sent, errors are the client's.
func (l *Log) sendDataTile(w http.ResponseWriter, r *http.Request, t tile, wide int, size uint64) error {
	file, err := l.directory.open(t, size)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	length := int64(0)
	for leaf, err := range l.directory.entries(t.index*tileWidth, t.index*tileWidth+uint64(wide), size) {
		if err != nil {
			return err
		}
		length += int64(leaf.Size)
	}
	body := io.NewSectionReader(file, 0, length)
	setHeader(w, "application/octet-stream", immutable)
	w.Header().Set("Vary", "Accept-Encoding")
	// Clients of logs accept gzip without a weight, and then also a tile as it is.
	codings := strings.Split(strings.ReplaceAll(r.Header.Get("Accept-Encoding"), " ", ""), ",")
	if slices.Contains(codings, "gzip") {
		select {
		case z := <-l.compressors:
			defer func() { l.compressors <- z }()
			w.Header().Set("Content-Encoding", "gzip")
			if r.Method == http.MethodHead {
				return nil
			}
			z.Reset(w)
			if _, err := io.Copy(z, body); err == nil {
				_ = z.Close()
			}
			return nil
		default:
		}
	}
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

// parseTilePath accepts exactly the names of static-ct-api: no leading zeros, no explicit
// full width.
func parseTilePath(path string) (t tile, wide int, ok bool) {
	first, name, _ := strings.Cut(strings.TrimPrefix(path, "/tile/"), "/")
	index, partial, err := layout.ParseTileIndexPartial(name)
	t = tile{data: first == "data", index: index}
	if err == nil && !t.data {
		t.level, err = layout.ParseTileLevel(first)
	}
	if err != nil || t.level > maxTileLevel || index >= 1<<40 {
		return t, 0, false
	}
	if wide = int(partial); wide == 0 {
		wide = tileWidth
	}
	return t, wide, "/"+t.path(partial) == path
}

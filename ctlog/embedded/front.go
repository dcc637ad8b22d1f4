// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// How long clients may cache answers.
const (
	immutable = "public, max-age=31536000, immutable"
	mutable   = "no-cache"
	private   = "no-store"
)

// front is the log's HTTP side. Reads show the tree of the published checkpoint, and nothing
// beyond it.
type front struct {
	log     *Log
	roots   func() []*x509.Certificate
	token   [sha256.Size]byte // of the submit token
	submits bool              // a token is configured
	replays *replays
	gets    map[string]endpoint
	posts   map[string]endpoint

	verified atomic.Pointer[checkpoint] // the newest one that was read
	// compressors holds the idle compressors. Each has 1.2 MiB, so there are few; without an idle
	// one, the log sends a tile uncompressed.
	compressors chan *gzip.Writer
}

// maxCompressors is how many data tiles are compressed at the same time.
const maxCompressors = 4

// endpoint answers a request, or returns an error that determines the status.
type endpoint func(w http.ResponseWriter, r *http.Request) error

func newFront(l *Log, cfg Config) *front {
	f := &front{
		log: l, roots: cfg.Roots, submits: len(cfg.SubmitToken) > 0, token: sha256.Sum256(cfg.SubmitToken),
		replays: newReplays(maxReplays), compressors: make(chan *gzip.Writer, maxCompressors),
	}
	for range maxCompressors {
		z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // fails for an unknown level only
		f.compressors <- z
	}
	f.gets = map[string]endpoint{
		"/checkpoint":                f.getCheckpoint,
		"/ct/v1/get-sth":             f.getSTH,
		"/ct/v1/get-entries":         f.getEntries,
		"/ct/v1/get-sth-consistency": f.getConsistency,
		"/ct/v1/get-entry-and-proof": f.getEntryAndProof,
		"/ct/v1/get-proof-by-hash":   f.getProofByHash,
		"/ct/v1/get-roots":           f.authorized(f.getRoots),
	}
	f.posts = map[string]endpoint{
		"/ct/v1/add-chain":     f.authorized(f.addChain),
		"/ct/v1/add-pre-chain": f.authorized(f.addPreChain),
	}
	return f
}

// Handler serves the log under its prefix, which the caller strips: /checkpoint, /tile/…,
// /issuer/… (static-ct-api) and /ct/v1/… (RFC 6962). Errors are JSON objects with an
// error_message (RFC 6962, section 4).
func (l *Log) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := l.front.serve(w, r)
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

func (f *front) serve(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path
	read, allow := f.gets[path], "GET, HEAD"
	switch {
	case strings.HasPrefix(path, "/tile/"):
		read = f.getTile
	case strings.HasPrefix(path, "/issuer/"):
		read = f.getIssuer
	}
	if post := f.posts[path]; post != nil {
		if r.Method == http.MethodPost {
			return post(w, r)
		}
		allow = "POST"
	} else if read == nil {
		return refuse(http.StatusNotFound, "there is nothing at %.100q; a static-ct-api log has checkpoint, tile/, issuer/ and ct/v1/", path)
	} else if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return read(w, r)
	}
	w.Header().Set("Allow", allow)
	return refuse(http.StatusMethodNotAllowed, "%.20q is not for this path; use %s", r.Method, allow)
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
	// Operators read the body with curl: do not escape < and &.
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(struct {
		ErrorMessage string `json:"error_message"`
	}{e.message}); err != nil {
		body.WriteString("{}\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", private)
	h.Set("X-Content-Type-Options", "nosniff")
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(body.Bytes())
}

// describeError is the only place that turns an error into an answer. Errors that are not
// meant for clients stay in the process's log.
func describeError(err error) *httpError {
	var (
		answer    *httpError
		refusal   *RefusedError
		storage   *StorageError
		retryable *ctlog.RetryableError
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &refusal):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log signs nothing any more; its operator has been told why", retryAfter: time.Hour}
	case errors.As(err, &retryable):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log is busy; try again", retryAfter: max(retryable.After, time.Second)}
	case errors.As(err, &storage), errors.Is(err, errClosed):
		return &httpError{status: http.StatusServiceUnavailable, message: "this log takes no entries now; try again", retryAfter: 10 * time.Second}
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged):
		return &httpError{status: http.StatusNotFound, message: "the log has no such tile, issuer or entry"}
	default:
		return &httpError{status: http.StatusInternalServerError, message: "the log failed to answer; it has written down why"}
	}
}

// checkpoint returns the published checkpoint. It verifies each one at the first read, so
// that the log never serves a checkpoint that it did not sign.
func (f *front) checkpoint() (*checkpoint, error) {
	raw, err := f.log.directory.checkpoint()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCheckpoint, err)
	}
	if c := f.verified.Load(); c != nil && bytes.Equal(c.raw, raw) {
		return c, nil
	}
	c, err := verifyCheckpoint(raw, f.log.origin, f.log.key)
	if err != nil {
		return nil, err
	}
	f.verified.Store(c)
	return c, nil
}

func (f *front) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	c, err := f.checkpoint()
	if err != nil {
		return err
	}
	content(w, r, "text/plain; charset=utf-8", mutable, c.raw)
	return nil
}

// content answers with a body in memory; http.ServeContent adds 304 and ranges.
func content(w http.ResponseWriter, r *http.Request, kind, caching string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", caching)
	h.Set("X-Content-Type-Options", "nosniff")
	digest := sha256.Sum256(body)
	h.Set("Etag", fmt.Sprintf(`"%x"`, digest[:16]))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func (f *front) getIssuer(w http.ResponseWriter, r *http.Request) error {
	fingerprint, ok := parseFingerprint(strings.TrimPrefix(r.URL.Path, "/issuer/"))
	if !ok {
		return refuse(http.StatusNotFound, "an issuer is named by the 64 lower-case hexadecimal digits of its SHA-256")
	}
	der, err := f.log.issuers.get(fingerprint)
	if err != nil {
		return err
	}
	content(w, r, "application/pkix-cert", immutable, der)
	return nil
}

// getTile serves tile/<L>/<N>[.p/<W>] and tile/data/<N>[.p/<W>].
//
// getTile cuts a partial tile from the newest one. So the tile is right even where an
// interrupted batch left a file of that name, and available after its own file is deleted.
func (f *front) getTile(w http.ResponseWriter, r *http.Request) error {
	data, level, index, wide, ok := parseTilePath(r.URL.Path)
	if !ok {
		return refuse(http.StatusNotFound, "a tile is named tile/<level>/<index>[.p/<width>] or tile/data/<index>[.p/<width>]")
	}
	c, err := f.checkpoint()
	if err != nil {
		return err
	}
	if width(level, index, c.head.size) < wide {
		return refuse(http.StatusNotFound, "the tree of the checkpoint, with %d entries, has no such tile", c.head.size)
	}
	if !data {
		body, err := f.log.directory.hashTile(level, index, c.head.size)
		if err != nil {
			return err
		}
		content(w, r, "application/octet-stream", immutable, body[:wide*hashSize])
		return nil
	}
	return f.sendDataTile(w, r, index, wide, c.head.size)
}

// sendDataTile answers with the first wide entries of a data tile, from its file.
func (f *front) sendDataTile(w http.ResponseWriter, r *http.Request, index uint64, wide int, size uint64) error {
	file, _, err := f.log.directory.openData(index, size)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	length := int64(0)
	for leaf, err := range f.log.directory.entries(index, size) {
		if err != nil {
			return err
		}
		if length += int64(leaf.size); leaf.index == index*tileWidth+uint64(wide)-1 {
			break
		}
	}
	body := io.NewSectionReader(file, 0, length)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", immutable)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	if acceptsGzip(r) {
		select {
		case z := <-f.compressors:
			defer func() { f.compressors <- z }()
			sendCompressed(w, r, z, body)
			return nil
		default: // A client that accepts gzip accepts the tile as it is.
		}
	}
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

// sendCompressed compresses body while it sends it. After the status has been sent, it ignores
// errors, which are the client's.
func sendCompressed(w http.ResponseWriter, r *http.Request, z *gzip.Writer, body io.Reader) {
	w.Header().Set("Content-Encoding", "gzip")
	if r.Method == http.MethodHead {
		return
	}
	z.Reset(w)
	if _, err := io.Copy(z, body); err == nil {
		_ = z.Close()
	}
}

// acceptsGzip reports whether a client accepts gzip without a weight, as clients of logs do.
func acceptsGzip(r *http.Request) bool {
	for _, coding := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(coding) == "gzip" {
			return true
		}
	}
	return false
}

// parseTilePath accepts exactly the names of static-ct-api: no leading zeros, no explicit
// full width.
func parseTilePath(path string) (data bool, level, index uint64, wide int, ok bool) {
	rest := strings.TrimPrefix(path, "/tile/")
	first, name, found := strings.Cut(rest, "/")
	if !found {
		return
	}
	if data = first == "data"; !data {
		l, err := strconv.ParseUint(first, 10, 8)
		if err != nil || l > maxTileLevel {
			return
		}
		level = l
	}
	index, partial, err := layout.ParseTileIndexPartial(name)
	if err != nil || index >= 1<<40 {
		return
	}
	want := layout.TilePath(level, index, partial)
	if data {
		want = dataTilePath(index, partial)
	}
	if "/"+want != path {
		return
	}
	if wide = int(partial); wide == 0 {
		wide = tileWidth
	}
	return data, level, index, wide, true
}

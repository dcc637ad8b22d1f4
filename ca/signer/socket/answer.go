// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// maxLogged bounds the logged text of an error, in octets: it may quote data from peers.
const maxLogged = 1 << 10

// request is a parsed request.
type request struct {
	key     [keyIDSize]byte
	message []byte
	timeout time.Duration
}

// parse returns the request in r.
func parse(r *http.Request) (q request, err error) {
	if found := r.Header.Get(versionHeader); found != version {
		return q, fmt.Errorf("it has version %q of the protocol, and mayfly signer has %s; run the same release on both sides", found, version)
	}
	path, found := strings.CutPrefix(r.RequestURI, signPath)
	id, err := hex.DecodeString(path)
	if r.Method != http.MethodPost || !found || err != nil || len(id) != keyIDSize {
		return q, errors.New("it is no POST to /sign/ and the ID of a key")
	}
	copy(q.key[:], id)
	if q.timeout = requestTimeout; len(r.Header[timeoutHeader]) > 0 {
		ms, err := strconv.ParseUint(r.Header.Get(timeoutHeader), 10, 32)
		if err != nil {
			return q, fmt.Errorf("the timeout: %w", err)
		}
		q.timeout = min(time.Duration(ms)*time.Millisecond, requestTimeout)
	}
	if r.ContentLength < 0 || r.ContentLength > MaxMessage {
		return q, fmt.Errorf("its message has %d octets, and must have a length of at most %d", r.ContentLength, MaxMessage)
	}
	q.message = make([]byte, r.ContentLength)
	_, err = io.ReadFull(r.Body, q.message)
	return q, err
}

// answer answers one request. It continues if the client disconnects: a key that gives no answer in
// the client's time has failed.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	w.Header()[versionHeader] = []string{version}
	w.Header()["Content-Type"] = nil
	q, err := parse(r)
	if err != nil {
		s.cfg.Refused(RefusedMalformed)
		s.log.Log(s.requests, slog.LevelWarn, "a request to the signer is malformed", slog.String("peer", r.RemoteAddr), slog.String("error", cut(err.Error(), maxLogged)))
		w.Header()["Connection"] = []string{"close"} // do not wait for the rest of it
		sendText(w, statusMalformed, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(s.requests, q.timeout)
	defer cancel()
	signature, err := s.sign(ctx, q)
	if err == nil && (len(signature) == 0 || len(signature) > maxSignature) {
		err = fmt.Errorf("the signature has %d octets, which is invalid", len(signature))
	}
	if err != nil {
		s.explain(ctx, w, r.RemoteAddr, q, err)
		return
	}
	send(w, http.StatusOK, signature)
}

func (s *Server) sign(ctx context.Context, q request) (signature []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Log(ctx, slog.LevelError, "panic while signing", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			signature, err = nil, errors.New("internal error; its log has more")
		}
	}()
	return s.cfg.Sign(ctx, q.key, q.message)
}

// explain sends and logs err.
func (s *Server) explain(ctx context.Context, w http.ResponseWriter, peer string, q request, err error) {
	text := err.Error()
	line := func(level slog.Level, message string) {
		s.log.Log(ctx, level, message, slog.String("peer", peer), slog.String("key", hex.EncodeToString(q.key[:])), slog.Int("octets", len(q.message)), slog.String("error", cut(text, maxLogged)))
	}
	var f *signer.Failure
	switch {
	case errors.Is(err, ErrNotPermitted):
		s.cfg.Refused(RefusedNotPermitted)
		line(slog.LevelError, "the signer refused a request that its policy does not permit: an attacker may control the server, or it is of another release")
		sendText(w, statusNotPermitted, strings.TrimPrefix(text, ErrNotPermitted.Error()+": "))
	case errors.Is(err, ErrUnknownKey):
		s.cfg.Refused(RefusedUnknownKey)
		line(slog.LevelWarn, "the signer refused a request for a key that it does not have")
		sendText(w, statusUnknownKey, strings.TrimPrefix(text, ErrUnknownKey.Error()+": "))
	case errors.As(err, &f) && f.Remedy == signer.Wait:
		line(slog.LevelWarn, "the signer got more requests than it can sign at a time")
		sendText(w, statusBusy, text)
	case signer.IsTransient(err), ctx.Err() != nil: // the request timed out, or the server stops
		line(slog.LevelWarn, "the signer's key is unavailable")
		if f != nil {
			w.Header()[restHeader] = []string{milliseconds(max(f.RetryAfter, 0))}
		}
		sendText(w, statusUnavailable, text)
	default:
		line(slog.LevelError, "the signer could not sign")
		sendText(w, statusFailed, text)
	}
}

func sendText(w http.ResponseWriter, status int, text string) {
	send(w, status, []byte(cut(text, maxText)))
}

// send sends an answer. net/http closes the connection after an error.
func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// cut returns text as UTF-8 of at most limit octets.
func cut(text string, limit int) string {
	return strings.ToValidUTF8(text[:min(len(text), limit)], "?") // the result is never longer
}

// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// askLogs requests the newest tree head of every remote log of cfg that is in use now or later. The
// configured key must verify it. askLogs submits nothing.
func (r *CheckReport) askLogs(ctx context.Context, cfg *config.Server) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	warnings, mistakes := make([]error, len(cfg.CT.Logs)), make([]error, len(cfg.CT.Logs))
	var asked sync.WaitGroup
	for i, entry := range cfg.CT.Logs {
		if entry.URL == "" || !entry.RetireAt.IsZero() && !time.Now().Before(entry.RetireAt) {
			continue
		}
		r.Logs++
		asked.Go(func() {
			warning, err := askLog(ctx, entry)
			warnings[i], mistakes[i] = keypath.Prefix(warning, "ct", "logs", strconv.Itoa(i)), keypath.Prefix(err, "ct", "logs", strconv.Itoa(i))
		})
	}
	asked.Wait()
	r.Warnings = append(r.Warnings, unjoin(cfg.Explain(errors.Join(warnings...)))...)
	r.add(cfg.Explain(errors.Join(mistakes...)))
}

// askLog requests get-sth of RFC 6962 from one log; then the checkpoint, which a static-ct-api log
// may serve under the same URL; then its roots, to check that the log exists.
func askLog(ctx context.Context, entry config.CTLog) (warning, err error) {
	atURL, atKey := []string{"url"}, []string{"public_key"}
	text, err := readFile(entry.PublicKey)
	if err != nil {
		return nil, keypath.Errorf(atKey, "reading the log's public key: %w", err)
	}
	key, err := ctlog.ParsePublicKey(text)
	if err != nil {
		return nil, keypath.Errorf(atKey, "%w", err)
	}
	log, _, err := newRemote(entry)
	if err != nil {
		return nil, err
	}
	defer log.CloseIdleConnections()
	err = log.VerifyTreeHead(ctx, key)
	if notServed(err) {
		var checkpoint []byte
		if checkpoint, err = log.Checkpoint(ctx); err == nil {
			if err = embedded.VerifyCheckpoint(checkpoint, key); err != nil {
				err = &ctlog.InvalidHeadError{Err: err}
			}
		}
	}
	if notServed(err) {
		if _, err = log.Roots(ctx); err == nil {
			return keypath.Errorf(atURL, "the log serves no tree head at this URL, so its key was not verified; the first certificate will show whether it is right"), nil
		}
	}
	var invalid *ctlog.InvalidHeadError
	switch {
	case errors.As(err, &invalid):
		return nil, keypath.Errorf(atKey, "the tree head of the log %s does not verify with this key, so its SCTs will not either; take the key from the log's operator: %w", entry.URL, err)
	case err != nil:
		return nil, keypath.Errorf(atURL, "%w", err)
	}
	return nil, nil
}

// notServed reports whether a log has answered that it has nothing at a path.
func notServed(err error) bool {
	var status *ctlog.StatusError
	if !errors.As(err, &status) {
		return false
	}
	switch status.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}

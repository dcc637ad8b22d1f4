// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// askLogs requests the newest tree head of every remote log of cfg that is in use now or later. The
// configured key must verify it. askLogs submits nothing.
func (r *CheckReport) askLogs(ctx context.Context, cfg *config.Server) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	warnings, mistakes := make([]error, len(cfg.CT.Logs)), make([]error, len(cfg.CT.Logs))
	r.Logs = eachRemote(cfg, time.Now(), func(i int, entry config.CTLog) {
		warning, err := askLog(ctx, entry)
		warnings[i], mistakes[i] = keypath.Prefix(warning, "ct", "logs", strconv.Itoa(i)), keypath.Prefix(err, "ct", "logs", strconv.Itoa(i))
	})
	r.Warnings = append(r.Warnings, keypath.Split(cfg.WithPlaces(errors.Join(warnings...)))...)
	r.add(cfg.WithPlaces(errors.Join(mistakes...)))
}

// eachRemote calls do for every remote log of cfg that is in use at now or later, for all at once. It
// returns their number when all calls have returned.
func eachRemote(cfg *config.Server, now time.Time, do func(i int, entry config.CTLog)) (n int) {
	var all sync.WaitGroup
	for i, entry := range cfg.CT.Logs {
		if entry.URL != "" && (entry.RetireAt.IsZero() || now.Before(entry.RetireAt)) {
			n++
			all.Go(func() { do(i, entry) })
		}
	}
	all.Wait()
	return n
}

// askLog requests the newest tree head of one log; and of a log that serves none, its roots, to check
// that the log exists.
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
	_, err = reader.OpenRemote(ctx, log, reader.Config{Key: key})
	if errors.As(err, new(*ctlog.StatusError)) {
		if _, err = log.Roots(ctx); err == nil {
			return keypath.Errorf(atURL, "the log serves no tree head at this URL, so its key was not verified; the first certificate will show whether it is right"), nil
		}
	}
	var invalid *ctlog.InvalidError
	switch {
	case errors.As(err, &invalid):
		return nil, keypath.Errorf(atKey, "the tree head of the log %s does not verify with this key, so its SCTs will not either; take the key from the log's operator: %w", entry.URL, err)
	case err != nil:
		return nil, keypath.Errorf(atURL, "%w", err)
	}
	return nil, nil
}

// CheckLogRoots asks each remote log of cfg whether it accepts the root of every chain that signs
// or will sign, and returns the problems; nil where there are none. A log that does not accept a
// root refuses every certificate below it.
func CheckLogRoots(ctx context.Context, cfg *config.Server, authorities *set.Set, now time.Time) (problems []error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found := make([][]error, len(cfg.CT.Logs))
	eachRemote(cfg, now, func(i int, entry config.CTLog) { found[i] = checkRoots(ctx, entry, authorities, now) })
	return slices.Concat(found...)
}

func checkRoots(ctx context.Context, entry config.CTLog, authorities *set.Set, now time.Time) (problems []error) {
	log, _, err := newRemote(entry)
	if err != nil {
		return []error{err}
	}
	defer log.CloseIdleConnections()
	roots, err := log.Roots(ctx)
	if err != nil {
		return []error{err}
	}
	for _, m := range authorities.Members() {
		if m.StateAt(now) > set.Active {
			continue
		}
		root := m.Chain.DER[len(m.Chain.DER)-1]
		if !slices.ContainsFunc(roots, func(der []byte) bool { return bytes.Equal(der, root) }) {
			problems = append(problems, fmt.Errorf("the log %s does not accept the root of authority %q (%s), and will refuse what it signs: have the log's operator add it",
				entry.URL, m.ID, m.Chain.Certificates[len(m.Chain.Certificates)-1].Subject))
		}
	}
	return problems
}

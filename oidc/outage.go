// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	// summaryInterval is the time between two lines about issuers that are failing.
	summaryInterval = 10 * time.Minute
	// maxNamed is the number of issuers that such a line names.
	maxNamed = 10
	// maxPatternLines is the number of lines about the issuers of one pattern in summaryInterval.
	// Callers choose these issuers.
	maxPatternLines = 20
	// maxErrorText is the number of bytes kept of an error, which may quote the issuer's answer.
	maxErrorText = 1 << 10
)

// report writes a line if a fetch has changed the state of the issuer: at the first failure after a
// success, and at the first success after failures. summarize covers the failures between them.
//
// A token creates an issuer of a pattern, so a failure is no change unless the issuer was readable
// before.
func (s *source) report(ctx context.Context, failures int, refreshed bool, err error) {
	level, message := slog.LevelDebug, "issuer cannot be reached, or its answer is not as expected"
	attrs := []slog.Attr{slog.String("issuer_entry", s.entry.Key), slog.String("issuer_url", s.issuerURL), slog.Int("failures", failures)}
	known := !s.wildcard() || s.current.Load() != nil
	switch {
	case err != nil:
		attrs = append(attrs, slog.Bool("keys_refreshed", refreshed), slog.Any("error", err))
		if known && failures == 1 {
			level = slog.LevelWarn
		}
	case failures > 0:
		message = "issuer can be reached again"
		if known {
			level = slog.LevelInfo
		}
	default:
		return
	}
	if s.wildcard() && level > slog.LevelDebug && !s.pool.lines.Take(netip.Addr{}, s.now()) {
		level = slog.LevelDebug
	}
	s.logger.LogAttrs(ctx, level, message, attrs...)
}

// summarize writes one line about the failing issuers in each summaryInterval, if there are any,
// until ctx ends.
func (v *Verifier) summarize(ctx context.Context) {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			v.summary(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (v *Verifier) summary(ctx context.Context) {
	var failing []*source
	for _, src := range v.static {
		failing = append(failing, src)
	}
	for _, e := range v.wildcards {
		failing = append(failing, e.pool.readable()...)
	}
	failing = slices.DeleteFunc(failing, func(s *source) bool { return !s.failing() })
	if len(failing) == 0 {
		return
	}
	var names []string
	for _, s := range failing {
		names = append(names, s.issuerURL)
	}
	slices.Sort(names)
	failing[0].logger.LogAttrs(ctx, slog.LevelWarn, "issuers still cannot be reached; /readyz?verbose on the ops listener has their errors",
		slog.Int("issuers", len(names)), slog.Any("issuer_urls", names[:min(len(names), maxNamed)]))
}

// brief returns err as shortened text, without references to other values.
func brief(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if len(text) <= maxErrorText {
		return errors.New(text)
	}
	end := maxErrorText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return errors.New(text[:end] + "…")
}

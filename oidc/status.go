// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

const (
	// maxPatternLines is the number of lines about the issuers of one pattern in linesInterval.
	// Callers choose these issuers.
	maxPatternLines = 20
	// linesInterval is also the time between two lines about all entries that are failing.
	linesInterval = 10 * time.Minute
	maxNamed      = 10 // entries that such a line names
	// maxErrorText is the number of bytes kept of an error, which may quote the issuer's answer.
	maxErrorText = 1 << 10
)

// State is the state of an issuer entry.
type State string

// The states.
const (
	StatePending  State = "pending"  // no fetch has finished yet
	StateOK       State = "ok"       // the last fetch was good
	StateDegraded State = "degraded" // the last fetch failed; the last good keys are in use
	StateFailing  State = "failing"  // there are no usable keys, and tokens are refused
	StateDisabled State = "disabled" // the operator has disabled the entry, and tokens are refused
)

// States returns every state.
func States() []State {
	return []State{StatePending, StateOK, StateDegraded, StateFailing, StateDisabled}
}

// IssuerStatus is the status of one issuer entry, for readiness, metrics and status pages.
type IssuerStatus struct {
	// Entry is Issuer.Key.
	Entry string
	// IssuerURL is Issuer.Key; "" for a wildcard entry.
	IssuerURL string
	// State of a wildcard entry is pending until a caller has named an issuer under it, failing while
	// none of those is readable, ok if all issuers in use are ok, and otherwise degraded.
	State State
	// Usable reports whether tokens can be verified at this moment: the last good keys of a failing
	// issuer are used until they are too old. A wildcard entry is always usable: callers choose its
	// issuers, so readiness must not depend on them.
	Usable bool
	// LastSuccess is the time of the last read of keys; zero if there has been none.
	LastSuccess time.Time
	// Keys and KeyAge are the number and age of a static entry's last good keys, usable or not.
	Keys   int
	KeyAge time.Duration
	// Issuers is the number of issuers with usable keys that are in use under a wildcard entry.
	Issuers int
	// LastError is the text of the last failure, for the operator; "" if State is ok or pending.
	LastError string
	// Since is when State began, or when Status or a fetch first noticed it.
	Since time.Time
	// LastFailure is of the last fetch that failed, also after a success, at LastFailureAt; nil for none.
	LastFailure   error
	LastFailureAt time.Time
}

// Status returns the state of every issuer entry, in the order of Config.Issuers.
func (v *Verifier) Status() []IssuerStatus {
	now := v.cfg.Now()
	list := make([]IssuerStatus, 0, len(v.entries))
	for _, e := range v.entries {
		var status IssuerStatus
		if e.pool != nil {
			status = e.pool.status(now)
		} else {
			status = e.issuer.statusAt(now)
			status.IssuerURL = e.Key
		}
		if e.Disabled {
			status.State, status.Usable, status.Since = StateDisabled, false, time.Time{}
		}
		status.Entry = e.Key
		list = append(list, status)
	}
	return list
}

func (i *issuer) statusAt(now time.Time) IssuerStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status(now)
}

// status returns the issuer's status. The caller holds i.mu.
func (i *issuer) status(now time.Time) IssuerStatus {
	status := i.condition(now)
	i.noticed.complete(&status, now)
	return status
}

func (i *issuer) condition(now time.Time) IssuerStatus {
	status := IssuerStatus{State: StatePending}
	if i.lastErr != nil {
		status.State, status.LastError = StateFailing, i.lastErr.Error()
	}
	if i.keys == nil {
		return status
	}
	status.LastSuccess, status.Keys, status.KeyAge = i.keys.fetchedAt, len(i.keys.list), max(now.Sub(i.keys.fetchedAt), 0)
	status.Usable = i.usable(i.keys, now) && status.Keys > 0
	if status.Keys == 0 { // the issuer may withdraw every key
		status.LastError = cmp.Or(status.LastError, "the key set has no key that tokens can be verified with")
	}
	switch {
	case !status.Usable:
		status.State = StateFailing
	case i.lastErr != nil:
		status.State = StateDegraded
	default:
		status.State = StateOK
	}
	return status
}

// noticed is what is remembered of an issuer or a pattern for its status. Its owner's mutex guards it.
type noticed struct {
	state           State
	since, failedAt time.Time
	failure         error
}

// complete adds to a status what is remembered, and notices a new state.
func (n *noticed) complete(status *IssuerStatus, now time.Time) {
	if n.state != status.State {
		n.state, n.since = status.State, now
	}
	status.Since, status.LastFailure, status.LastFailureAt = n.since, n.failure, n.failedAt
}

// report writes a line if a fetch has changed the state of the issuer. A token creates an issuer of a
// pattern, so there is no line unless its keys have been read.
func (i *issuer) report(before State, now IssuerStatus) {
	level, message := slog.LevelDebug, "issuer cannot be reached, or its answer is not as expected"
	switch {
	case now.State == StateOK && (before == StateOK || before == ""):
		return
	case now.State == StateOK:
		level, message = slog.LevelInfo, "issuer can be reached again"
	case now.State != before:
		level = slog.LevelWarn
	}
	if level > slog.LevelDebug && (i.pool != nil && now.LastSuccess.IsZero() || !i.mayLog()) {
		level = slog.LevelDebug
	}
	i.cfg.Logger.LogAttrs(context.Background(), level, message, slog.String("issuer_entry", i.entry.Key),
		slog.String("issuer_url", i.url), slog.String("state", string(now.State)), slog.String("error", now.LastError))
}

// mayLog reports whether a line may be written about the issuer.
func (i *issuer) mayLog() bool {
	return i.pool == nil || i.pool.lines.Take(netip.Addr{}, i.cfg.Now())
}

// summarize writes one line about the entries with issuers that are failing or degraded, if there are
// any. Callers invent the issuers of a pattern under which none was ever read.
func (v *Verifier) summarize() {
	var names []string
	for _, s := range v.Status() {
		if s.State == StateDegraded || s.State == StateFailing && s.IssuerURL != "" {
			names = append(names, s.Entry)
		}
	}
	if len(names) > 0 {
		v.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "issuers still cannot be reached; /readyz?verbose on the ops listener has their errors",
			slog.Int("issuers", len(names)), slog.Any("issuer_entries", names[:min(len(names), maxNamed)]))
	}
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
	return errors.New(strings.ToValidUTF8(text[:maxErrorText], "") + "…")
}

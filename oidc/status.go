// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"strings"
	"time"
)

// State is how an issuer entry does.
type State string

// The states.
const (
	StatePending  State = "pending"  // no fetch has ended yet
	StateOK       State = "ok"       // the last fetch was good
	StateDegraded State = "degraded" // the last fetch failed; the last good keys are in use
	StateFailing  State = "failing"  // there are no usable keys, and tokens are refused
)

// States returns every state.
func States() []State { return []State{StatePending, StateOK, StateDegraded, StateFailing} }

// IssuerStatus is how one issuer entry does, for readiness, metrics and status pages.
type IssuerStatus struct {
	// Entry is Issuer.Key.
	Entry string
	// IssuerURL is Issuer.URL; "" for a wildcard entry. Such an entry is pending until somebody
	// has named an issuer under it, failing while none of those can be read, ok if all that
	// are in use are, and else degraded. Callers choose the issuers, so readiness must not
	// hang on it.
	IssuerURL string
	State     State
	// Usable tells whether tokens can be verified at this moment: the last good keys of a
	// failing issuer are used until they are too old. A wildcard entry always is usable.
	Usable bool
	// LastSuccess is when keys were read last, LastFailure when a fetch failed last; zero where
	// there has been none.
	LastSuccess, LastFailure time.Time
	// Keys is how many keys the last good key set had that tokens can be verified with; 0 for a
	// wildcard entry.
	Keys int
	// KeyAge is the age of the keys, usable or not; zero where there are none, and for a
	// wildcard entry.
	KeyAge time.Duration
	// Issuers is how many issuers with usable keys are in use under a wildcard entry.
	Issuers int
	// LastError is the text of the last failure, for the operator; "" if there is none since
	// the last success, and for a pattern of which some issuers are in use, if all those are ok.
	LastError string
}

// Status returns the state of every issuer entry, in the order of Config.Issuers.
func (v *Verifier) Status() []IssuerStatus {
	now := v.now()
	list := make([]IssuerStatus, 0, len(v.entries))
	for _, e := range v.entries {
		var status IssuerStatus
		if e.pool != nil {
			status = e.pool.status(now)
		} else {
			status = v.static[e.URL].status(now)
		}
		status.Entry, status.IssuerURL = e.Key, e.URL
		list = append(list, status)
	}
	return list
}

func (s *source) status(now time.Time) IssuerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.current.Load()
	status := IssuerStatus{Usable: s.usable(known, now) != nil, LastSuccess: s.lastSuccess, LastFailure: s.lastFailure}
	if known != nil {
		status.KeyAge, status.Keys = max(now.Sub(known.fetchedAt), 0), len(known.list)
		status.Usable = status.Usable && status.Keys > 0
	}
	if s.lastErr != nil {
		status.LastError = s.lastErr.Error()
	}
	switch {
	case !status.Usable && known == nil && s.lastErr == nil:
		status.State = StatePending
	case !status.Usable:
		status.State = StateFailing
		if known != nil && status.Keys == 0 {
			// To withdraw every key is the issuer's right, and its key set was read.
			status.LastError = strings.TrimPrefix(status.LastError+"\nthe key set has no key that tokens can be verified with", "\n")
		}
	case s.lastErr != nil:
		status.State = StateDegraded
	default:
		status.State = StateOK
	}
	return status
}

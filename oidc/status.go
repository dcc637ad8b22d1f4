// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"strings"
	"time"
)

// State is the state of an issuer entry.
type State string

// The states.
const (
	StatePending  State = "pending"  // no fetch has finished yet
	StateOK       State = "ok"       // the last fetch was good
	StateDegraded State = "degraded" // the last fetch failed; the last good keys are in use
	StateFailing  State = "failing"  // there are no usable keys, and tokens are refused
)

// States returns every state.
func States() []State { return []State{StatePending, StateOK, StateDegraded, StateFailing} }

// IssuerStatus is the status of one issuer entry, for readiness, metrics and status pages.
type IssuerStatus struct {
	// Entry is Issuer.Key.
	Entry string
	// IssuerURL is Issuer.URL; "" for a wildcard entry. A wildcard entry is pending until a caller
	// has named an issuer under it. It is failing while none of those is readable, ok if all
	// issuers in use are ok, and otherwise degraded. Callers choose the issuers, so readiness must
	// not depend on them.
	IssuerURL string
	State     State
	// Usable reports whether tokens can be verified at this moment: the last good keys of a failing
	// issuer are used until they are too old. A wildcard entry is always usable.
	Usable bool
	// LastSuccess is the time of the last read of keys, LastFailure that of the last failed fetch;
	// zero if there has been none.
	LastSuccess, LastFailure time.Time
	// Keys is the number of keys in the last good key set that can verify tokens; 0 for a wildcard
	// entry.
	Keys int
	// KeyAge is the age of the keys, usable or not; zero if there are none, and for a wildcard
	// entry.
	KeyAge time.Duration
	// Issuers is the number of issuers with usable keys that are in use under a wildcard entry.
	Issuers int
	// LastError is the text of the last failure, for the operator. It is "" if there is none since
	// the last success, and for a pattern if all its issuers in use are ok.
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
			// The issuer may withdraw every key; its key set was read.
			status.LastError = strings.TrimPrefix(status.LastError+"\nthe key set has no key that tokens can be verified with", "\n")
		}
	case s.lastErr != nil:
		status.State = StateDegraded
	default:
		status.State = StateOK
	}
	return status
}

// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"sync"
	"time"
)

// State is how an issuer entry does.
type State string

// The states.
const (
	StatePending State = "pending" // no fetch has ended yet
	StateOK      State = "ok"      // the last fetch was good
	StateFailing State = "failing" // the last fetch failed
)

// IssuerStatus is how one issuer entry does, for readiness and status pages. LastError is for
// the operator.
type IssuerStatus struct {
	// Entry is Issuer.Key.
	Entry string
	// IssuerURL is Issuer.URL; "" for a wildcard entry, whose state is that of the issuer
	// fetched last under it. Callers choose such issuers, so readiness must not hang on it.
	IssuerURL string
	State     State
	// Usable tells whether tokens can be verified at this moment: the last good keys of a
	// failing issuer are used until they are too old. A wildcard entry always is usable.
	Usable bool
	// LastSuccess and LastFailure are zero where there has been none.
	LastSuccess, LastFailure time.Time
	// LastError is the text of the last failure; "" if the state is not failing.
	LastError string
}

// Status returns the state of every issuer entry, in the order of Config.Issuers.
func (v *Verifier) Status() []IssuerStatus {
	now := v.now()
	list := make([]IssuerStatus, 0, len(v.entries))
	for _, e := range v.entries {
		status := e.health.status()
		status.Entry, status.IssuerURL = e.Key, e.URL
		src, static := v.static[e.URL]
		status.Usable = !static || src.usable(src.current.Load(), now) != nil
		list = append(list, status)
	}
	return list
}

// health is the outcome of an entry's fetches.
type health struct {
	mu                       sync.Mutex // guards what follows
	lastSuccess, lastFailure time.Time
	err                      error // of the last fetch; nil if it was good
}

func (h *health) record(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if err == nil {
		h.lastSuccess = now
	} else {
		h.lastFailure = now
	}
}

func (h *health) status() IssuerStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	status := IssuerStatus{State: StatePending, LastSuccess: h.lastSuccess, LastFailure: h.lastFailure}
	switch {
	case h.err != nil:
		status.State, status.LastError = StateFailing, h.err.Error()
	case !h.lastSuccess.IsZero():
		status.State = StateOK
	}
	return status
}

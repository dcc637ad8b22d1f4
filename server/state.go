// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"time"
)

// StateVersion changes when a key of State is removed or gets another meaning. New keys do not change it.
const StateVersion = 1

// maxErrorText is the number of bytes of an error in a report. An error may quote a foreign server.
const maxErrorText = 4 << 10

// State is the state of the server at one moment: what /readyz, GET /status on the ops listener, `mayfly
// status` and the page show. It has errors, so no public listener serves it. Its size is bounded. Times
// are UTC, and zero for never.
type State struct {
	Version int          `json:"version"` // StateVersion
	Release string       `json:"release"` // of mayfly
	At      time.Time    `json:"at"`
	Started time.Time    `json:"started"`
	Status  string       `json:"status"` // SERVING or NOT_SERVING, as of /readyz
	Since   time.Time    `json:"since"`  // of Status
	Checks  []CheckState `json:"checks"`

	ConfigGeneration uint64    `json:"config_generation"` // of the issuers, from 1 at the start
	ConfigLoaded     time.Time `json:"config_loaded,omitzero"`
	ConfigSHA256     string    `json:"config_sha256"`     // of the issuer file
	RestartPending   bool      `json:"restart_pending"`   // the configuration file has changed
	SetGeneration    uint64    `json:"ca_set_generation"` // of the CA set
	KernelClock      string    `json:"kernel_clock"`      // synchronised, unsynchronised or unknown

	Authorities  []Component    `json:"authorities"`   // in the order in which they sign
	Keys         []Component    `json:"keys"`          // of the authorities that sign or may sign later
	Logs         []Component    `json:"logs"`          // in order of preference
	Issuers      []Component    `json:"issuers"`       // entries, those that need attention first; at most 200
	IssuerStates map[string]int `json:"issuer_states"` // how many entries are in each state; all are counted
	Limits       []LimitState   `json:"limits"`
	Certificates []CountState   `json:"certificates"` // issued, by issuer entry
	Refusals     []CountState   `json:"refusals"`     // requests of any API, by reason
}

// Component is an authority, a key, a log or an issuer entry. A member that it does not have is zero.
type Component struct {
	Name string `json:"name"`
	Kind string `json:"kind,omitempty"` // of a key: file, pkcs11, …; of a log: remote or embedded; of an issuer: static or wildcard
	// State is that of metrics: of an authority staged to expired, of an issuer pending to disabled, and
	// of the breaker of a key or a log.
	State       string    `json:"state"`
	Failures    int       `json:"failures,omitempty"`    // in a row
	LastSuccess time.Time `json:"last_success,omitzero"` // a signature, an SCT, or a read of keys
	History

	PublishAt  time.Time `json:"publish_at,omitzero"` // of an authority
	ActivateAt time.Time `json:"activate_at,omitzero"`
	SignsUntil time.Time `json:"signs_until,omitzero"`
	ChainEnds  time.Time `json:"chain_ends,omitzero"`
	TreeSize   uint64    `json:"tree_size,omitempty"` // of an embedded log
}

// LimitState is a limit on what clients use at the same time, by its key in the configuration.
type LimitState struct {
	Name  string `json:"name"`
	InUse int    `json:"in_use"`
	Limit int    `json:"limit"`
}

// History is since when something is in its state, zero for since the start, and its last failure, also
// after it has recovered.
type History struct {
	Since       time.Time `json:"since,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// NewHistory returns a History; err may be nil.
func NewHistory(since time.Time, err error, at time.Time) History {
	h := History{Since: since.UTC(), LastErrorAt: at.UTC()}
	if err != nil {
		h.LastError = clip(err.Error())
	}
	return h
}

// clip returns the beginning of an error's text.
func clip(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorText], "") + "…"
}

// State returns the present state.
func (s *Server) State(ctx context.Context) State {
	r := s.health.report(ctx)
	state := State{
		Version: StateVersion, At: time.Now().UTC(), Started: s.health.started, Status: r.Status, Since: r.since, Checks: r.Checks,
		Authorities: []Component{}, Keys: []Component{}, Logs: []Component{}, Issuers: []Component{}, Limits: []LimitState{},
		Certificates: s.issued.state(time.Now()), Refusals: s.refused.state(time.Now()),
	}
	if s.slots != nil { // a process without an API has none
		open, _ := s.conns.count()
		state.Limits = append(state.Limits, LimitState{"limits.in_flight", len(s.slots), cap(s.slots)}, LimitState{"limits.connections", open, s.conns.limit})
	}
	if s.cfg.State != nil {
		s.cfg.State(&state)
	}
	return state
}

// SPDX-License-Identifier: Apache-2.0

package socket

import "time"

// Refusal is a kind of refusal by a Server: the value of a label.
type Refusal string

// The refusals. A peer that is not allowed can cause only the first one.
const (
	RefusedConnection   Refusal = "connection"    // a peer that is not allowed, or one too many
	RefusedMalformed    Refusal = "malformed"     // a request that does not parse
	RefusedNotPermitted Refusal = "not_permitted" // Sign returned ErrNotPermitted
	RefusedUnknownKey   Refusal = "unknown_key"   // Sign returned ErrUnknownKey
)

// Refusals returns all of them, for metrics.
func Refusals() []Refusal {
	return []Refusal{RefusedConnection, RefusedMalformed, RefusedNotPermitted, RefusedUnknownKey}
}

const (
	// lineInterval is the minimum interval between lines with the same message, for messages that
	// peers can cause.
	lineInterval = time.Second
	// maxLogged bounds the logged text of an error, in octets: it may quote data from peers.
	maxLogged = 1 << 10
)

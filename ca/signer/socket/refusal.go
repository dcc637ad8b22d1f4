// SPDX-License-Identifier: Apache-2.0

package socket

import "time"

// Refusal is what a Server has refused: the value of a label.
type Refusal string

// The refusals. Who is not allowed can bring about the first alone.
const (
	RefusedConnection   Refusal = "connection"    // of one who is not allowed, or one too many
	RefusedMalformed    Refusal = "malformed"     // a request that is none
	RefusedNotPermitted Refusal = "not_permitted" // one for which Sign said ErrNotPermitted
	RefusedUnknownKey   Refusal = "unknown_key"   // one for which it said ErrUnknownKey
)

// Refusals are all of them, for metrics.
func Refusals() []Refusal {
	return []Refusal{RefusedConnection, RefusedMalformed, RefusedNotPermitted, RefusedUnknownKey}
}

const (
	// lineInterval is how far apart lines with the same message are, of which others decide how
	// many there would be.
	lineInterval = time.Second
	// maxLogged is how much of an error's text is logged, in octets: it may quote what others
	// sent.
	maxLogged = 1 << 10
)

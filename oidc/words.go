// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"strings"
)

// maxQuoted is the number of characters of a foreign string that a message repeats.
const maxQuoted = 100

// quote returns s for a message to the client: in double quotes, with non-printing characters
// escaped, and cut to maxQuoted characters.
func quote(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxQuoted {
			return fmt.Sprintf("%q…", s[:i])
		}
	}
	return fmt.Sprintf("%q", s)
}

// quoteList returns up to three of list, quoted as by quote, and the number of the others.
func quoteList(list []string) string {
	const shown = 3
	var b strings.Builder
	for i, s := range list {
		if i == shown {
			fmt.Fprintf(&b, " and %d more", len(list)-shown)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(s))
	}
	return b.String()
}

// SPDX-License-Identifier: Apache-2.0

// Package wildcard compares text with what an operator asks for, in which a * stands for any text. Every
// package may import it.
package wildcard

import (
	"cmp"
	"strings"
)

// Match reports whether text is what is asked for. Empty, it is any text.
func Match(asked, text string) bool {
	parts := strings.Split(cmp.Or(asked, "*"), "*")
	last := len(parts) - 1
	text, ok := strings.CutPrefix(text, parts[0])
	if last == 0 {
		return ok && text == ""
	}
	for _, part := range parts[1:last] {
		var found bool
		_, text, found = strings.Cut(text, part)
		ok = ok && found
	}
	return ok && strings.HasSuffix(text, parts[last])
}

// SPDX-License-Identifier: Apache-2.0

package oidc

import "strings"

// glob is one label or segment of a Pattern: the literal pieces between its stars. Without a star
// it is one piece.
type glob []string

func newGlob(text string) glob { return strings.Split(text, "*") }

func (g glob) literal() bool { return len(g) == 1 }

// match puts each piece at the first place where it fits. No later place can be better: the star
// before the piece would then cover the first place. The piece itself then consists of run
// characters, and the star after it can cover the difference as well.
func (g glob) match(s string) bool {
	if g.literal() {
		return s == g[0]
	}
	s, ok := strings.CutPrefix(s, g[0])
	if !ok {
		return false
	}
	last := len(g) - 1
	for _, piece := range g[1:last] {
		n := 0 // the length of the run before piece
		for n == 0 || !strings.HasPrefix(s[n:], piece) {
			if n == len(s) || !isBase64URL(s[n]) {
				return false
			}
			n++
		}
		s = s[n+len(piece):]
	}
	s, ok = strings.CutSuffix(s, g[last])
	return ok && s != "" && isRun(s)
}

func isRun(s string) bool {
	for i := range len(s) {
		if !isBase64URL(s[i]) {
			return false
		}
	}
	return true
}

// Overlaps reports whether some issuer URL matches both patterns.
func (p Pattern) Overlaps(other Pattern) bool {
	return p.scheme == other.scheme && p.port == other.port &&
		(p.segments == nil) == (other.segments == nil) &&
		partsOverlap(p.labels, other.labels) && partsOverlap(p.segments, other.segments)
}

func partsOverlap(a, b []glob) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x := overlap{a: a[i].steps(), b: b[i].steps(), seen: make(map[[2]int]bool)}
		if !x.reach(0, 0) {
			return false
		}
	}
	return true
}

// step is what a glob reads next: exactly one byte, one run character, or any number of run
// characters.
type step int16

const (
	oneOfRun step = -1
	anyOfRun step = -2
)

func (g glob) steps() []step {
	var steps []step
	for i, piece := range g {
		if i > 0 {
			steps = append(steps, oneOfRun, anyOfRun)
		}
		for j := range len(piece) {
			steps = append(steps, step(piece[j]))
		}
	}
	return steps
}

// overlap searches for a text that two globs accept, by reading it with both at once.
type overlap struct {
	a, b []step
	seen map[[2]int]bool
}

// reach reports whether both ends can be reached together from position i of a and j of b.
func (o *overlap) reach(i, j int) bool {
	if o.seen[[2]int{i, j}] {
		return false
	}
	o.seen[[2]int{i, j}] = true
	if i == len(o.a) && j == len(o.b) {
		return true
	}
	if i < len(o.a) && o.a[i] == anyOfRun && o.reach(i+1, j) {
		return true
	}
	if j < len(o.b) && o.b[j] == anyOfRun && o.reach(i, j+1) {
		return true
	}
	if i == len(o.a) || j == len(o.b) || !o.a[i].meets(o.b[j]) {
		return false
	}
	nextI, nextJ := i+1, j+1
	if o.a[i] == anyOfRun {
		nextI = i
	}
	if o.b[j] == anyOfRun {
		nextJ = j
	}
	return o.reach(nextI, nextJ)
}

// meets reports whether both steps read some common byte.
func (s step) meets(t step) bool {
	switch {
	case s < 0 && t < 0:
		return true
	case s < 0:
		return isBase64URL(byte(t))
	case t < 0:
		return isBase64URL(byte(s))
	default:
		return s == t
	}
}

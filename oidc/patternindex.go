// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"slices"
	"strings"
)

// patternIndex finds the wildcard entry of an issuer URL without a comparison with every pattern. The
// number of shapes decides the time, and real settings have a few.
type patternIndex []*patternShape // more specific first

// patternShape holds the patterns that have stars in the same parts, and the same specificity.
type patternShape struct {
	specific int
	stars    string // for each part, "*" if it has a star and "-" if not
	byText   map[string][]*entry
}

// newPatternIndex returns the index of wildcards, which are in the order of their specificity.
func newPatternIndex(wildcards []*entry) (index patternIndex) {
	for _, e := range wildcards {
		stars := starsOf(e.pattern.text)
		at := slices.IndexFunc(index, func(s *patternShape) bool { return s.specific == e.specific && s.stars == stars })
		if at < 0 {
			at = len(index)
			index = append(index, &patternShape{specific: e.specific, stars: stars, byText: make(map[string][]*entry)})
		}
		text := string(appendMasked(nil, e.pattern.text, stars))
		index[at].byText[text] = append(index[at].byText[text], e)
	}
	return index
}

// find returns the most specific entry that matches a canonical issuer URL; nil if none does.
func (index patternIndex) find(issuerURL string) *entry {
	var buffer [256]byte
	for _, shape := range index {
		for _, e := range shape.byText[string(appendMasked(buffer[:0], issuerURL, shape.stars))] {
			if e.pattern.matches(issuerURL) {
				return e
			}
		}
	}
	return nil
}

// starsOf returns patternShape.stars of a pattern.
func starsOf(pattern string) (stars string) {
	for part := ""; pattern != ""; {
		if part, pattern = nextPart(pattern); strings.Contains(part, "*") {
			stars += "*"
		} else {
			stars += "-"
		}
	}
	return stars
}

// appendMasked appends text with one star in place of each part that has a star by stars. A pattern and
// a URL that it matches have the same masked text.
func appendMasked(b []byte, text, stars string) []byte {
	for i, part := 0, ""; text != ""; i++ {
		if part, text = nextPart(text); i < len(stars) && stars[i] == '*' {
			part = "*"
		}
		b = append(b, part...)
	}
	return b
}

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

// overlapIndex finds patterns that overlap without a comparison of each two. It has the entries by their shapes.
type overlapIndex []*overlapShape

// overlapShape holds the entries of a shape, and by the masks that patterns of another shape share with them.
type overlapShape struct {
	patternShape
	entries []*entry
	masked  map[string]map[string][]*entry
}

// add adds an entry, and returns those before it that are as specific and match a URL that it matches, too.
func (index *overlapIndex) add(e *entry) (found []*entry) {
	stars := starsOf(e.pattern.text)
	var own *overlapShape
	for _, shape := range *index {
		if shape.specific != e.specific || len(shape.stars) != len(stars) { // a URL has one number of parts
			continue
		}
		if shape.stars == stars {
			own = shape
		}
		both := []byte(stars)
		for i := range both {
			both[i] = min(both[i], shape.stars[i]) // '*' is less than '-'
		}
		for _, o := range shape.by(string(both))[string(appendMasked(nil, e.pattern.text, string(both)))] {
			if e.Key != o.Key && e.pattern.overlaps(o.pattern) {
				found = append(found, o)
			}
		}
	}
	if own == nil {
		own = &overlapShape{patternShape: patternShape{specific: e.specific, stars: stars}, masked: map[string]map[string][]*entry{}}
		*index = append(*index, own)
	}
	own.entries = append(own.entries, e)
	for stars, byText := range own.masked {
		text := string(appendMasked(nil, e.pattern.text, stars))
		byText[text] = append(byText[text], e)
	}
	return found
}

// by returns the entries of the shape by their text without the parts that have a star by stars.
func (s *overlapShape) by(stars string) map[string][]*entry {
	byText := s.masked[stars]
	if byText == nil {
		byText = map[string][]*entry{}
		s.masked[stars] = byText
		for _, e := range s.entries {
			text := string(appendMasked(nil, e.pattern.text, stars))
			byText[text] = append(byText[text], e)
		}
	}
	return byText
}

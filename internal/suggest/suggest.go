// SPDX-License-Identifier: Apache-2.0

// Package suggest finds the known name that a misspelt name most likely means. Every package
// that validates settings may import it.
package suggest

import (
	"cmp"
	"fmt"
	"strings"
)

// DidYouMean returns `; did you mean "x"?` for the known name that found most likely
// misspells, and "" where none is close.
func DidYouMean(found string, known []string) string {
	if best := Closest(found, known); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// DidYouMeanOr is DidYouMean, but where none is close it returns words and then all of known, or none.
func DidYouMeanOr(found string, known []string, words string) string {
	if hint := DidYouMean(found, known); hint != "" {
		return hint
	}
	return "; " + words + " " + cmp.Or(strings.Join(known, ", "), "none")
}

// Closest returns the known name that found most likely misspells, or "". Names that differ
// only in case, hyphens and underscores always match; otherwise it allows one typing error in
// three characters, and at most three.
func Closest(found string, known []string) string {
	best, least := "", min(3, len(found)/3)+1
	for _, name := range known {
		if Fold(name) == Fold(found) {
			return name
		}
		// A length difference above the bound cannot win and is not measured: found comes
		// from the file and may be as long as the file.
		if diff := len(name) - len(found); diff >= least || -diff >= least {
			continue
		}
		if d := distance(found, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// Fold returns name without the differences between kebab-case, snake_case and CamelCase.
func Fold(name string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name))
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours that
// turn a into b (optimal string alignment), byte by byte.
func distance(a, b string) int {
	before, above := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitution := above[j-1]
			if a[i-1] != b[j-1] {
				substitution++
			}
			row[j] = min(substitution, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}

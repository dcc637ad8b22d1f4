// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// maxIssuerURL is the longest wildcard, and the longest issuer URL that one matches, in bytes.
const maxIssuerURL = 2048

// Pattern is a wildcard issuer: a canonical issuer URL in which each `*` matches one non-empty run of
// [-_A-Za-z0-9]. A run has no dot and no slash, so a `*` stays within its label of the host or its
// segment of the path. Everything else must match byte for byte.
//
// Match never applies a regular expression to the URL, and never matches one that is not canonical
// (CVE-2026-22772).
type Pattern struct{ text string }

// ParsePattern parses a wildcard issuer.
func ParsePattern(text string) (Pattern, error) {
	if !isCanonical(strings.ReplaceAll(text, "*", "x")) {
		return Pattern{}, fmt.Errorf("the pattern %s is not like https://*.issuer.example/id/*: a host in lower case and a path, "+
			"without user-info, query, fragment, percent-encoding and empty labels or segments", quote(text))
	}
	return Pattern{text}, nil
}

// isCanonical reports whether text is an http or https URL as net/url writes it, with a lower-case
// host name, and without user-info, query, fragment, percent-encoding, and segments that are empty
// or consist of dots. A slash may be at the end.
func isCanonical(text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxIssuerURL || u.String() != text || strings.ContainsAny(text, "?#%@") ||
		u.Scheme != "https" && u.Scheme != "http" {
		return false
	}
	host, port, hasPort := strings.Cut(u.Host, ":")
	if n, err := strconv.ParseUint(port, 10, 16); hasPort && (err != nil || n == 0) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isRun(label) || strings.ToLower(label) != label {
			return false
		}
	}
	return u.Path == "" || strings.TrimSuffix(u.Path, "/") == strings.TrimSuffix(path.Clean(u.Path), "/")
}

// isRun reports whether a `*` may match s, or a part of it.
func isRun(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// specificity returns the number of labels and segments without a `*`. Of the patterns that match a
// URL, the one with the highest number applies.
func (p Pattern) specificity() (n int) {
	_, rest, _ := strings.Cut(p.text, "://")
	host, segments, _ := strings.Cut(rest, "/")
	for _, part := range append(strings.Split(host, "."), strings.Split(segments, "/")...) {
		if !strings.Contains(part, "*") {
			n++
		}
	}
	return n
}

// Match reports whether issuerURL is canonical and the pattern matches it.
func (p Pattern) Match(issuerURL string) bool { return isCanonical(issuerURL) && p.matches(issuerURL) }

// matches puts each literal piece of the pattern at the first place where it fits. No later place can
// be better: the star before the piece would then cover the first place. The piece itself then
// consists of run characters, and the star after it can cover the difference as well.
func (p Pattern) matches(s string) bool {
	piece, glob, star := strings.Cut(p.text, "*")
	s, ok := strings.CutPrefix(s, piece)
	for ok && star {
		piece, glob, star = strings.Cut(glob, "*")
		n := 0 // the length of the run before piece
		if !star {
			n = max(len(s)-len(piece), 0) // the last piece is at the end
		} else if i := strings.Index(s[min(1, len(s)):], piece); i >= 0 {
			n = 1 + i
		}
		if n == 0 || n > len(s) || !isRun(s[:n]) {
			return false
		}
		s, ok = strings.CutPrefix(s[n:], piece)
	}
	return ok && s == ""
}

// overlaps reports whether some text matches both patterns. It reads both from the left: common[j]
// states whether some text matches what it has read of p and the first j bytes of the other.
func (p Pattern) overlaps(other Pattern) bool {
	common := make([]bool, len(other.text)+1)
	common[0] = true
	for i := range len(p.text) {
		next, a := make([]bool, len(common)), p.text[i:i+1]
		for j := range len(other.text) {
			switch b := other.text[j : j+1]; {
			case a == "*" && (b == "*" || isRun(b)), b == "*" && isRun(a):
				next[j+1] = common[j] || a == "*" && next[j] || b == "*" && common[j+1]
			default:
				next[j+1] = a == b && common[j]
			}
		}
		common = next
	}
	return common[len(other.text)]
}

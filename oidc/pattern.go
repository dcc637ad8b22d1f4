// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxPattern is the longest wildcard issuer, in bytes.
const maxPattern = 2048

// Pattern is a wildcard issuer: an issuer URL in which each `*` matches one non-empty run of
// [-_A-Za-z0-9] within one label of the host or one segment of the path. A `*` never matches a dot
// or a slash. Everything else must match byte for byte: scheme, port, number of labels and
// segments, and a slash at the end.
//
//	pattern  = ( "https" / "http" ) "://" label *( "." label ) [ ":" port ] *( "/" segment )
//	label    = 1*( "a"-"z" / "0"-"9" / "-" / "_" / "*" )
//	segment  = 1*( unreserved / sub-delims / ":" / "*" )   ; the last one may be empty
//
// Match compares labels and segments of a parsed URL, and never applies a regular expression to the
// text (CVE-2026-22772).
type Pattern struct {
	text     string
	scheme   string
	labels   []string
	port     string   // with its colon; "" for none
	segments []string // nil for no path, one empty segment for "/"
}

// ParsePattern parses a wildcard issuer. Its errors state what is wrong with it.
func ParsePattern(text string) (Pattern, error) {
	p := Pattern{text: text}
	if len(text) > maxPattern {
		return Pattern{}, fmt.Errorf("the pattern has %d bytes; at most %d are accepted", len(text), maxPattern)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme != "https" && scheme != "http" {
		return Pattern{}, errors.New("the pattern does not begin with https://")
	}
	p.scheme = scheme
	for _, r := range rest {
		if !isPatternChar(r) {
			return Pattern{}, fmt.Errorf("the pattern has %q, which cannot be part of a wildcard issuer "+
				"(user-info, queries, fragments and percent-encoding are not supported)", r)
		}
	}
	host, path, hasPath := strings.Cut(rest, "/")
	host, port, hasPort := strings.Cut(host, ":")
	if hasPort {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Pattern{}, fmt.Errorf("the pattern's port is %q; a number is expected", port)
		}
		p.port = ":" + port
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool { return r != '*' && !isHostChar(r) }) {
			return Pattern{}, fmt.Errorf("the pattern's host has the label %q; lower-case letters, digits, - and * are expected", label)
		}
		p.labels = append(p.labels, label)
	}
	if hasPath {
		p.segments = strings.Split(path, "/")
		for i, segment := range p.segments {
			if segment == "." || segment == ".." || segment == "" && i < len(p.segments)-1 {
				return Pattern{}, fmt.Errorf("the pattern's path has the segment %q, which no issuer URL should have", segment)
			}
		}
	}
	return p, nil
}

// isPatternChar reports whether RFC 3986 permits r unescaped in a path, except "@".
func isPatternChar(r rune) bool {
	return isRunChar(r) || strings.ContainsRune(".~!$&'()*+,;=:/", r)
}

func isHostChar(r rune) bool { return isRunChar(r) && (r < 'A' || r > 'Z') }

// isRunChar reports whether `*` may match r.
func isRunChar(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}

// String returns the pattern as it was parsed.
func (p Pattern) String() string { return p.text }

// Specificity returns the number of labels and segments without a `*`. Of the patterns that match a
// URL, the one with the highest number applies.
func (p Pattern) Specificity() (n int) {
	for _, part := range slices.Concat(p.labels, p.segments) {
		if !strings.Contains(part, "*") {
			n++
		}
	}
	return n
}

// Match reports whether the pattern matches issuerURL, which must be canonical: as net/url writes
// it, with a lower-case host, and without user-info, query, fragment and percent-encoding.
func (p Pattern) Match(issuerURL string) bool {
	target, ok := parseIssuerURL(issuerURL)
	return ok && p.matches(target)
}

func (p Pattern) matches(target issuerParts) bool {
	return p.scheme == target.scheme && p.port == target.port &&
		matchParts(p.labels, target.host, ".") &&
		target.hasPath == (p.segments != nil) &&
		(!target.hasPath || matchParts(p.segments, target.path, "/"))
}

// matchParts reports whether s, split at separator, has as many parts as globs, and each glob
// matches its part.
func matchParts(globs []string, s, separator string) bool {
	for i, glob := range globs {
		part, rest, more := strings.Cut(s, separator)
		if more != (i < len(globs)-1) || !matchGlob(glob, part) {
			return false
		}
		s = rest
	}
	return true
}

// matchGlob puts each literal piece of glob at the first place where it fits. No later place can be
// better: the star before the piece would then cover the first place. The piece itself then consists
// of run characters, and the star after it can cover the difference as well.
func matchGlob(glob, s string) bool {
	piece, glob, star := strings.Cut(glob, "*")
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

func isRun(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !isRunChar(r) })
}

// Overlaps reports whether some issuer URL may match both patterns. It may report an overlap that
// does not exist if the patterns have characters other than [-_A-Za-z0-9] between two stars.
func (p Pattern) Overlaps(other Pattern) bool {
	return p.scheme == other.scheme && p.port == other.port &&
		(p.segments == nil) == (other.segments == nil) &&
		slices.EqualFunc(p.labels, other.labels, globsOverlap) && slices.EqualFunc(p.segments, other.segments, globsOverlap)
}

// globsOverlap compares what is before the first star and after the last one. What the longer text
// of the two has in addition must be a run, which the star of the other covers.
func globsOverlap(a, b string) bool {
	firstA, firstB := strings.IndexByte(a, '*'), strings.IndexByte(b, '*')
	switch {
	case firstA < 0:
		return matchGlob(b, a)
	case firstB < 0:
		return matchGlob(a, b)
	}
	longer, start := a[:firstA], b[:firstB]
	if len(longer) < len(start) {
		longer, start = start, longer
	}
	rest, ok := strings.CutPrefix(longer, start)
	longerEnd, end := a[strings.LastIndexByte(a, '*')+1:], b[strings.LastIndexByte(b, '*')+1:]
	if len(longerEnd) < len(end) {
		longerEnd, end = end, longerEnd
	}
	restOfEnd, endOK := strings.CutSuffix(longerEnd, end)
	return ok && endOK && isRun(rest) && isRun(restOfEnd)
}

// issuerParts is a canonical issuer URL in parts.
type issuerParts struct {
	scheme, host string
	port         string // with its colon
	hasPath      bool
	path         string // without its first slash
}

func parseIssuerURL(issuerURL string) (issuerParts, bool) {
	u, err := url.Parse(issuerURL)
	if err != nil || u.String() != issuerURL ||
		u.Opaque != "" || u.User != nil || strings.ContainsAny(issuerURL, "?#%") {
		return issuerParts{}, false
	}
	parts := issuerParts{scheme: u.Scheme, host: u.Host}
	if i := strings.IndexByte(u.Host, ':'); i >= 0 {
		parts.host, parts.port = u.Host[:i], u.Host[i:]
	}
	if strings.ContainsFunc(parts.host, func(r rune) bool { return r != '.' && !isHostChar(r) }) {
		return issuerParts{}, false
	}
	parts.path, parts.hasPath = strings.CutPrefix(u.Path, "/")
	return parts, parts.hasPath || u.Path == ""
}

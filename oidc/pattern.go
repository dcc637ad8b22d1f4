// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"errors"
	"fmt"
	"net/url"
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
	labels   []glob
	port     string // with its colon; "" for none
	segments []glob // nil for no path, one empty segment for "/"
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
			return Pattern{}, fmt.Errorf("the pattern's port is %q; wanted is a number", port)
		}
		p.port = ":" + port
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool { return r != '*' && !isHostChar(r) }) {
			return Pattern{}, fmt.Errorf("the pattern's host has the label %q; wanted are lower-case letters, digits, - and *", label)
		}
		p.labels = append(p.labels, newGlob(label))
	}
	if hasPath {
		segments := strings.Split(path, "/")
		for i, segment := range segments {
			if segment == "." || segment == ".." || segment == "" && i < len(segments)-1 {
				return Pattern{}, fmt.Errorf("the pattern's path has the segment %q, which no issuer URL should have", segment)
			}
			p.segments = append(p.segments, newGlob(segment))
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
func isRunChar(r rune) bool { return r < 0x80 && isBase64URL(byte(r)) }

// String returns the pattern as it was parsed.
func (p Pattern) String() string { return p.text }

// Specificity returns the number of labels and segments without a `*`. Of the patterns that match a
// URL, the one with the highest number applies.
func (p Pattern) Specificity() int {
	n := 0
	for _, parts := range [][]glob{p.labels, p.segments} {
		for _, g := range parts {
			if g.literal() {
				n++
			}
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
func matchParts(globs []glob, s, separator string) bool {
	for i, g := range globs {
		part, rest, more := strings.Cut(s, separator)
		if more != (i < len(globs)-1) || !g.match(part) {
			return false
		}
		s = rest
	}
	return true
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

// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// uriSAN returns the URI SAN of raw, as net/url prints it. Octets that a path cannot hold are
// percent-encoded (a space is %20); the host's case, empty path segments and the query stay.
//
// raw must have a scheme, and either a host or no authority (RFC 5280, section 4.2.1.6), as in
// arn:aws:iam::123456789012:role/build. Verifiers compare SANs as text or with patterns, and read
// the authority from the left. uriSAN therefore refuses user-info and the segments "." and "..",
// percent-encoded or not: another reader may resolve them.
func uriSAN(raw string) (certs.SAN, error) {
	refuse := func(found string, err error) (certs.SAN, error) {
		return certs.SAN{}, refusal.New(refusal.ClaimInvalid,
			"the subject alternative name made of the token's claims, %s, %s; it must be an absolute URI, with a host where it has an authority, and no user information or dot segments", quote(raw), found).Because(err)
	}
	if !isPrintable(raw) {
		return refuse("holds a control character, or is not UTF-8", nil)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return refuse("is not a URI", err)
	}
	opaque, err := url.PathUnescape(u.Opaque)
	switch {
	case err != nil:
		return refuse("is not a URI", err)
	case u.Scheme == "":
		return refuse("has no scheme", nil)
	case u.Hostname() == "" && (needsHost(u.Scheme) || u.Opaque == "" && !u.OmitHost):
		return refuse("has no host", nil)
	case u.User != nil:
		return refuse("has user information before its host", nil)
	case hasDotSegment(u.Path) || hasDotSegment(opaque):
		return refuse(`has a path segment "." or ".."`, nil)
	}
	return certs.SAN{Kind: certs.SANURI, Value: u.String()}, nil
}

// isPrintable reports whether s is UTF-8 without control characters. Formatting would escape
// them.
func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// needsHost reports whether the definition of the scheme requires an authority (RFC 9110, section
// 4.2; RFC 6455, section 3; RFC 1738, section 3.2; SPIFFE-ID, section 2). Other readers find an
// authority in https:ci.example.
func needsHost(scheme string) bool {
	return slices.Contains([]string{"https", "http", "wss", "ws", "ftp", "spiffe"}, scheme)
}

func hasDotSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// joinPath is url.JoinPath of base and the rest of raw, which begins with base. For a rest with a
// malformed percent escape it refuses; (*url.URL).JoinPath would drop the rest.
func joinPath(base, raw string) (string, error) {
	if isClean(raw) && !strings.Contains(strings.TrimPrefix(base, "https://"), "/") {
		return raw, nil
	}
	joined, err := url.JoinPath(base, strings.TrimPrefix(raw, base))
	if err != nil || !isPrintable(raw) {
		return "", notAURL(raw, err)
	}
	return joined, nil
}

// isClean reports whether a URL is one that net/url prints unchanged: https, a host in lower case, and
// after it only characters that need no escape, no empty segment and no dot segment.
func isClean(raw string) bool {
	rest, https := strings.CutPrefix(raw, "https://")
	host, path, slash := strings.Cut(rest, "/")
	plain := func(s, others string) bool {
		return !strings.ContainsFunc(s, func(c rune) bool {
			return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.ContainsRune(others, c))
		})
	}
	return https && slash && host != "" && plain(host, "-.") && plain(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-._~@/") &&
		!strings.HasPrefix(path, "/") && !strings.Contains(path, "//") && !hasDotSegment(path)
}

// withHTTPS returns raw, https:// and a claim, as the URL in the claim with the scheme https.
func withHTTPS(raw string) (string, error) {
	u, err := url.Parse(strings.TrimPrefix(raw, "https://"))
	if err != nil || !isPrintable(raw) {
		return "", notAURL(raw, err)
	}
	u.Scheme = "https"
	return u.String(), nil
}

func notAURL(raw string, cause error) error {
	return refusal.New(refusal.ClaimInvalid, "the token's claims make %s, which is not a URL, or holds a control character or a malformed percent escape", quote(raw)).Because(cause)
}

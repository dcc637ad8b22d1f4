// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// uriSAN returns the URI SAN of raw, as net/url spells it: what a path may not hold is
// percent-encoded (a space is %20), and an empty fragment's # is dropped; the host's case,
// empty path segments and the query stay.
//
// It must be an absolute URL with a host. Verifiers compare SANs as text, or against
// patterns, and read authority out of what stands left; so user-info and the segments "."
// and "..", percent-encoded or not, are refused, since another reader may resolve them.
func uriSAN(raw string) (certs.SAN, error) {
	if raw == "" {
		return certs.SAN{}, sanRefusal(raw, "is empty")
	}
	if !utf8.ValidString(raw) || strings.ContainsFunc(raw, unicode.IsControl) {
		return certs.SAN{}, sanRefusal(raw, "holds a control character, or is not UTF-8")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return certs.SAN{}, sanRefusal(raw, "is not a URL").Because(err)
	case u.Scheme == "" || u.Hostname() == "":
		return certs.SAN{}, sanRefusal(raw, "has no scheme or no host")
	case u.User != nil:
		return certs.SAN{}, sanRefusal(raw, "has user information before its host")
	case hasDotSegment(u.Path):
		return certs.SAN{}, sanRefusal(raw, `has a path segment "." or ".."`)
	}
	return certs.SAN{Kind: certs.SANURI, Value: u.String()}, nil
}

func sanRefusal(raw, found string) *refusal.Error {
	return refusal.New(refusal.ClaimInvalid,
		"the subject alternative name made of the token's claims, %s, %s; it must be an absolute URL with a host, and no user information or dot segments", quote(raw), found)
}

// joinedSAN is uriSAN of base with elements joined to its path. url.JoinPath resolves dot
// segments without a word, so that a pipeline named "../other" would take another's name:
// they are refused before.
func joinedSAN(base string, elements ...string) (certs.SAN, error) {
	for _, part := range append([]string{base}, elements...) {
		if hasDotSegment(part) {
			return certs.SAN{}, sanRefusal(part, `has a path segment "." or ".."`)
		}
	}
	joined, err := joinPath(base, elements...)
	if err != nil {
		return certs.SAN{}, err
	}
	return uriSAN(joined)
}

// joinPath is url.JoinPath with a refusal. An element with a malformed percent escape is an
// error there, where (*url.URL).JoinPath would drop all elements and keep the bare base.
func joinPath(base string, elements ...string) (string, error) {
	joined, err := url.JoinPath(base, elements...)
	if err != nil {
		return "", refusal.New(refusal.ClaimInvalid,
			"the token's claims do not make a URL: joining %s to %s finds no valid URL, or a malformed percent escape", quote(strings.Join(elements, "/")), quote(base)).Because(err)
	}
	return joined, nil
}

func hasDotSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

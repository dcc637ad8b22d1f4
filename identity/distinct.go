// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// No two callers share a name: another value of one claim gives another SAN, or a refusal. This
// file ensures that formatting loses no part of a claim; separate.go keeps two claims apart.

// claim is a claim of the token, as text, in a SAN.
type claim struct{ name, text string }

// checkDistinct refuses raw if another raw could be formatted as san too; joined states that
// url.JoinPath has formatted it. net/url escapes octets that a URI cannot hold, and prints the
// escapes of raw unchanged. If undoing the former in san returns raw, no other raw has this san.
//
// Escapes in the operator's own text do not distinguish callers, because they are the same for
// every token. checkDistinct therefore undoes them in raw too, unless a claim holds such an escape.
func checkDistinct(raw, san string, claims []claim, joined bool) error {
	if plain(raw, san) {
		return nil
	}
	if !joined && (strings.HasSuffix(raw, "#") || strings.HasSuffix(raw, "?")) {
		return indistinct(raw, len(raw)-1, claims)
	}
	undone := undoEscapes(san, joined, false)
	if undone == raw {
		return nil
	}
	for _, c := range claims {
		if i := escapeIn(c.text, joined, strings.Contains(raw, "#")); i >= 0 {
			return refusal.New(refusal.ClaimInvalid, "the token's claim %s holds %s; with another text in its place, the name would be the same",
				quote(c.name), character(c.text, i))
		}
	}
	own, undone := undoEscapes(raw, joined, true), undoEscapes(san, joined, true)
	if own == undone {
		// A claim cannot choose the case of an escape that starts in the operator's text.
		if upper := upperEscapes(raw); raw != san && raw != upper {
			return indistinct(raw, difference(raw, upper), claims)
		}
		return nil
	}
	return indistinct(own, difference(own, undone), claims)
}

// plain reports whether raw has no escape and no empty fragment or query, and formatting has
// not changed it.
func plain(raw, san string) bool {
	return raw == san && !strings.Contains(raw, "%") && !strings.HasSuffix(raw, "#") && !strings.HasSuffix(raw, "?")
}

// undoEscapes undoes in the path and in the fragment of a URI the escapes that net/url may have
// made. net/url escapes some octets always, and a few others only beside one of those. Without all,
// undoEscapes leaves the latter if there is none of the former. %25 and %2F always stay.
func undoEscapes(uri string, joined, all bool) string {
	head, fragment, hasFragment := strings.Cut(uri, "#")
	path, query, hasQuery := strings.Cut(head, "?")
	// If no slash follows the scheme, net/url prints all of it unchanged.
	if _, after, _ := strings.Cut(path, ":"); strings.HasPrefix(after, "/") {
		if all || replaceEscapes(path, func(c byte) bool { return escapedInPath(c, joined, false) }) != path {
			path = replaceEscapes(path, func(c byte) bool { return escapedInPath(c, joined, true) })
		}
	}
	if hasQuery {
		path += "?" + query
	}
	if hasFragment {
		if all || replaceEscapes(fragment, func(c byte) bool { return escapedInFragment(c, false) }) != fragment {
			fragment = replaceEscapes(fragment, func(c byte) bool { return escapedInFragment(c, true) })
		}
		path += "#" + fragment
	}
	return path
}

// escapedInPath reports whether net/url escapes c in a path, or with beside, in a path that holds a
// space. A path for url.JoinPath may hold ? and #; otherwise these end the path.
func escapedInPath(c byte, joined, beside bool) bool {
	if c == '?' || c == '#' {
		return joined
	}
	return escapedAfter("https://h/", c, beside)
}

func escapedInFragment(c byte, beside bool) bool { return escapedAfter("https://h/#", c, beside) }

// escapedAfter counts the quote ' among the octets that are always escaped, because readers of URIs
// in text take it for the end of the URI.
func escapedAfter(prefix string, c byte, beside bool) bool {
	if beside {
		prefix += " "
	}
	u, err := url.Parse(prefix + string([]byte{c}))
	return c != '%' && (c == '\'' || err != nil || !strings.HasSuffix(u.String(), string([]byte{c})))
}

// replaceEscapes replaces the escapes of the octets for which chosen is true by the octets.
func replaceEscapes(s string, chosen func(byte) bool) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 || i+3 > len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil && chosen(byte(c)) {
			b.WriteByte(byte(c))
			s = s[i+3:]
		} else {
			b.WriteByte('%')
			s = s[i+1:]
		}
	}
}

// upperEscapes returns s with the escapes spelled as net/url spells its own.
func upperEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i:], strings.ToUpper(s[i:i+3]))
		}
	}
	return string(b)
}

// escapeIn returns the index in text of an escape that undoEscapes undoes, or of the first part of
// any escape that following text would complete; -1 for neither.
func escapeIn(text string, joined, fragment bool) int {
	for i := range len(text) {
		if text[i] != '%' {
			continue
		}
		if i+3 > len(text) {
			return i
		}
		if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil && (escapedInPath(byte(c), joined, true) || fragment && escapedInFragment(byte(c), true)) {
			return i
		}
	}
	return -1
}

// difference returns the index of the first octet that a and b do not share.
func difference(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// indistinct refuses raw, made of the claims, because a name would not show its octet i.
func indistinct(raw string, i int, claims []claim) error {
	if percent := strings.LastIndexByte(raw[:min(i, len(raw))], '%'); percent >= 0 && percent >= i-2 {
		i = percent
	}
	made := "by the issuer's template"
	if len(claims) > 0 {
		names := make([]string, len(claims))
		for i, c := range claims {
			names[i] = quote(c.name)
		}
		made = "of the token's claims " + strings.Join(names, ", ")
	}
	return refusal.New(refusal.ClaimInvalid, "the name made %s, %s, is the same with another text in place of its %s", made, quote(raw), character(raw, i))
}

// character returns the character or the escape at s[i:], for a message.
func character(s string, i int) string {
	if i >= len(s) {
		return "end"
	}
	if s[i] == '%' {
		return quote(s[i:min(i+3, len(s))])
	}
	_, n := utf8.DecodeRuneInString(s[i:])
	return quote(s[i : i+n])
}

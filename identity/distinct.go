// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// No two callers share a name: another value of one claim gives another SAN, or a refusal.
// distinctSAN ensures that formatting loses no part of a claim, and checkSeparate that two claims of
// a name stay apart.

// claim is a claim of the token, as text, in a SAN.
type claim struct{ name, text string }

// distinctSAN returns the SAN of formatted, which is raw after formatting, if no other claims give
// the same SAN; joined states that url.JoinPath has formatted it.
//
// net/url escapes octets that a URI cannot hold, and prints the escapes of raw unchanged. If undoing
// the former in the SAN returns raw, no other raw has this SAN. Escapes in the operator's own text
// are the same for every token. distinctSAN therefore undoes them in raw too, and no claim may hold
// one.
func distinctSAN(raw, formatted string, claims []claim, joined bool) (certs.SAN, error) {
	san, err := uriSAN(formatted)
	// Others may drop an empty fragment or query.
	empty := !joined && (strings.HasSuffix(raw, "#") || strings.HasSuffix(raw, "?"))
	switch {
	case err != nil:
		return san, err
	case !empty && (raw == san.Value && !strings.Contains(raw, "%") || raw == undoEscapes(san.Value, joined, false)):
		return san, nil
	}
	for _, c := range claims {
		if escape := escapeIn(c.text, joined, strings.Contains(raw, "#")); escape != "" {
			return san, refusal.New(refusal.ClaimInvalid, "the token's claim %s holds %s; with another text in its place, the name would be the same", quote(c.name), quote(escape))
		}
	}
	// A claim cannot choose the case of an escape that starts in the operator's text.
	cased := raw == san.Value || raw == upperEscapes(raw)
	own, undone := undoEscapes(raw, joined, true), undoEscapes(san.Value, joined, true)
	switch {
	case empty:
		own, undone = raw, raw[:len(raw)-1]
	case own == undone && cased:
		return san, nil
	case own == undone:
		own, undone = raw, upperEscapes(raw)
	}
	names := make([]string, len(claims))
	for i, c := range claims {
		names[i] = quote(c.name)
	}
	return san, refusal.New(refusal.ClaimInvalid, "the name made of the token's claims %s, %s, would be the same with another text in place of its %s",
		cmp.Or(strings.Join(names, ", "), "(none)"), quote(raw), changed(own, undone))
}

// changed returns the first character or escape of a that b does not have in its place.
func changed(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	if escape := strings.LastIndexByte(a[:i], '%'); escape >= 0 && escape >= i-2 {
		return quote(a[escape:min(escape+3, len(a))])
	}
	_, n := utf8.DecodeRuneInString(a[i:])
	return quote(a[i : i+n])
}

// undoEscapes undoes in the path and in the fragment of a URI the escapes that net/url may have
// made. net/url escapes some octets always, and a few others only beside one of those. Without all,
// undoEscapes leaves the latter if there is none of the former. %25 and %2F always stay.
func undoEscapes(uri string, joined, all bool) string {
	undo := func(s, before string) string {
		if all || replaceEscapes(s, func(c byte) bool { return escaped(c, before, joined) }) != s {
			return replaceEscapes(s, func(c byte) bool { return escaped(c, before+" ", joined) })
		}
		return s
	}
	head, fragment, hasFragment := strings.Cut(uri, "#")
	path, query, hasQuery := strings.Cut(head, "?")
	// If no slash follows the scheme, net/url prints all of it unchanged.
	if _, after, _ := strings.Cut(path, ":"); strings.HasPrefix(after, "/") {
		path = undo(path, inPath)
	}
	if hasQuery {
		path += "?" + query
	}
	if hasFragment {
		path += "#" + undo(fragment, inFragment)
	}
	return path
}

// The text before a path and before a fragment.
const (
	inPath     = "https://h/"
	inFragment = "https://h/#"
)

// escaped reports whether net/url escapes c after the text before, which ends in a space for a place
// where another octet is escaped. It counts the quote ' among the octets that are always escaped,
// because readers of URIs in text take it for the end of the URI. A path for url.JoinPath may hold ? and
// #; otherwise these end the path.
func escaped(c byte, before string, joined bool) bool {
	if (c == '?' || c == '#') && !strings.HasPrefix(before, inFragment) {
		return joined
	}
	u, err := url.Parse(before + string([]byte{c}))
	return c != '%' && (c == '\'' || err != nil || !strings.HasSuffix(u.String(), string([]byte{c})))
}

// replaceEscapes replaces the escapes of the octets for which chosen is true by the octets.
func replaceEscapes(s string, chosen func(byte) bool) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if c, ok := escapedAt(s, i); ok && chosen(c) {
			b = append(b, c)
			i += 2
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// escapedAt returns the octet of the escape at s[i:], if there is one.
func escapedAt(s string, i int) (byte, bool) {
	if s[i] != '%' || i+3 > len(s) {
		return 0, false
	}
	c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
	return byte(c), err == nil
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

// escapeIn returns an escape in text that undoEscapes undoes, or the first part of any escape that
// following text would complete; "" for neither.
func escapeIn(text string, joined, fragment bool) string {
	for i := range len(text) {
		c, ok := escapedAt(text, i)
		switch {
		case text[i] == '%' && i+3 > len(text):
			return text[i:]
		case ok && (escaped(c, inPath+" ", joined) || fragment && escaped(c, inFragment+" ", joined)):
			return text[i : i+3]
		}
	}
	return ""
}

// pair is a claim in a concatenation, and the claim that follows it.
type pair struct {
	first, second string
	separator     string // the fixed text between them
	offset        int    // of first in the result
}

// pairs returns each claim of a concatenation that another claim follows. The constants are the
// operator's text.
func pairs(parts []part, values, constants map[string]string) (all []pair) {
	var open *pair
	offset := 0
	for _, p := range parts {
		text, fixed := p.text, p.kind == literal
		if !fixed {
			text = values[p.text]
			_, fixed = constants[p.text]
		}
		switch {
		case !fixed:
			if open != nil {
				open.second = p.text
				all = append(all, *open)
			}
			open = &pair{first: p.text, offset: offset}
		case open != nil:
			open.separator += text
		}
		offset += len(text)
	}
	return all
}

// checkSeparate refuses raw, the result of the parts, if other claims together could have the same
// result. None could if each claim ends where its separator first begins.
func checkSeparate(raw string, parts []part, values, constants map[string]string) error {
	for _, p := range pairs(parts, values, constants) {
		if !ends(raw[p.offset:], values[p.first], p.separator) {
			return refusal.New(refusal.ClaimInvalid, "the token's claim %s, %s, holds %s, which separates it from the claim %s in the name; other claims could make the same name",
				quote(p.first), quote(values[p.first]), quote(p.separator), quote(p.second))
		}
	}
	return nil
}

// ends reports whether the text at the beginning of s ends where the separator is first found
// in s. The separator in the scheme of a URL does not count.
func ends(s, text, separator string) bool {
	skip := 0
	if scheme, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/:?#") {
		skip = len(scheme) + len("://")
	}
	return separator != "" && skip+strings.Index(s[skip:], separator) == len(text)
}

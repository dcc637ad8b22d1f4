// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"slices"
	"time"
)

// CASet is a CA set, the file that `ca.set` names and `mayfly ca` writes. Paths in it are relative
// to it; LoadCASet has resolved them. Times are RFC 3339, whole seconds.
type CASet struct {
	// Generation is `generation`: a whole number that every edit increases. A server never loads an
	// older generation, nor its present generation with another content.
	Generation uint64 `key:"generation" required:"it is a whole number from 1 on that increases with every edit"`
	// Authorities are the authorities of the set; their order has no meaning.
	Authorities []CASetAuthority `key:"authorities"`

	*File
	content []byte
}

// CASetAuthority is an entry of `authorities`.
type CASetAuthority struct {
	// ID is `id`: up to 64 lower-case letters, digits, dots, hyphens and underscores.
	ID string `key:"id"`
	// Chain is `chain`, a PEM file: the issuing CA first, the root last; the root must be included.
	Chain string `key:"chain" kind:"path" required:"it names the PEM file with the issuing CA first and the root last"`
	// Signer is `signer`. It may be absent after the authority has retired.
	Signer Signer `key:"signer"`
	// PublishAt is `publish_at`: from then on the authority is in the trust bundle.
	PublishAt time.Time `key:"publish_at" required:"from then on the authority is in the trust bundle"`
	// ActivateAt is `activate_at`: the authority signs from then on, until the next one's
	// activate_at or its own retire_at. Without activate_at it does not sign.
	ActivateAt time.Time `key:"activate_at"`
	// RetireAt is `retire_at`: the authority stops signing then, and stays in the trust bundle
	// until its certificates expire. Without it, the authority signs until another one starts.
	RetireAt time.Time `key:"retire_at"`
	// CompromisedAt is `compromised_at`: from then on another party may have the key. The authority
	// stops signing and leaves the trust bundle. Its window in trusted_root.json closes then.
	CompromisedAt time.Time `key:"compromised_at"`
}

// LoadCASet reads the CA set from the file called path. Its errors and warnings are those of
// LoadServer. It opens no other file.
func LoadCASet(path string) (*CASet, []error, error) { return loaded(path, ParseCASet) }

// ParseCASet is LoadCASet for a file that has been read already. Relative paths in it are relative
// to the directory of name; mistakes give name as the file.
func ParseCASet(name string, content []byte) (*CASet, []error, error) {
	d := newDecoder(name)
	set := &CASet{File: d.File, content: content}
	d.read(content, false, set)
	return result(d, set)
}

func (s *CASet) check(d *decoder, path []string) {
	if !d.Sets("authorities") {
		d.wrong([]string{"authorities"}, "authorities is missing: it lists the authorities of the set")
	}
}

func (a *CASetAuthority) check(d *decoder, path []string) {
	if !ValidAuthorityID(a.ID) {
		d.wrong(join(path, "id"), "found the id %q, expected up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a", shorten(a.ID))
	}
}

// Content returns the file's content as the loader read it.
func (s *CASet) Content() []byte { return s.content }

// Index returns the place of the authority id in Authorities, or -1.
func (s *CASet) Index(id string) int {
	return slices.IndexFunc(s.Authorities, func(a CASetAuthority) bool { return a.ID == id })
}

var authorityID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidAuthorityID reports whether id is a valid ID of an authority.
func ValidAuthorityID(id string) bool { return authorityID.MatchString(id) }

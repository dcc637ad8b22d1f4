// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
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

	file    *File
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
func LoadCASet(path string) (*CASet, []Mistake, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return ParseCASet(path, content)
}

// ParseCASet is LoadCASet for a file that has been read already. Relative paths in it are relative
// to the directory of name; mistakes give name as the file.
func ParseCASet(name string, content []byte) (*CASet, []Mistake, error) {
	r := &report{file: name}
	file, ok := parse(r, content, yamlOnly)
	if !ok {
		warnings, err := r.result()
		return nil, warnings, err
	}
	set := &CASet{file: file, content: content}
	c := checks{decoder: &decoder{report: r, dir: filepath.Dir(name)}}
	c.object(file.root, reflect.ValueOf(set).Elem())
	c.tags(reflect.ValueOf(set).Elem(), nil)
	if _, ok := file.root.lookup("authorities"); !ok {
		c.wrong([]string{"authorities"}, "authorities is missing: it lists the authorities of the set")
	}
	for i, a := range set.Authorities {
		path := []string{"authorities", strconv.Itoa(i)}
		if !ValidAuthorityID(a.ID) {
			c.wrong(join(path, "id"), "found the id %q, expected up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a", shorten(a.ID))
		}
		if _, _, missing := file.walk(join(path, "signer")); missing == "" {
			c.signer(a.Signer, join(path, "signer"))
		}
	}
	c.report(file, file.Mistakes)
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return set, warnings, nil
}

// Name returns the file's name as the caller gave it to the loader.
func (s *CASet) Name() string { return s.file.name }

// Content returns the file's content as the loader read it.
func (s *CASet) Content() []byte { return s.content }

// Index returns the place of the authority id in Authorities, or -1.
func (s *CASet) Index(id string) int {
	for i, a := range s.Authorities {
		if a.ID == id {
			return i
		}
	}
	return -1
}

// WithPlaces maps every keypath error in err to its place in the file; nil for nil.
func (s *CASet) WithPlaces(err error) error { return s.file.Mistakes(err).asError() }

var authorityID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidAuthorityID reports whether id is a valid ID of an authority.
func ValidAuthorityID(id string) bool { return authorityID.MatchString(id) }

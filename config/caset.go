// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"regexp"
	"time"
)

// CASet is a CA set, the file that `ca.set` names and `mayfly ca` writes. Paths in it are relative
// to it; LoadCASet has resolved them. Times are RFC 3339, whole seconds.
type CASet struct {
	// Generation is `generation`: a whole number that every edit increases. A server never loads an
	// older generation, nor its present generation with another content.
	Generation uint64
	// Authorities is `authorities`, in the order of the file, which has no meaning.
	Authorities []CASetAuthority

	file    *File
	content []byte
}

// CASetAuthority is an entry of `authorities`. Each needs an id, a chain and publish_at.
type CASetAuthority struct {
	// ID is `id`: up to 64 lower-case letters, digits, dots, hyphens and underscores.
	ID string
	// Chain is `chain`, a PEM file: the issuing CA first, the root last; the root must be included.
	Chain string
	// Signer is `signer`. It may be absent after the authority has retired.
	Signer Signer
	// PublishAt is `publish_at`: from then on the authority is in the trust bundle.
	PublishAt time.Time
	// ActivateAt is `activate_at`: the authority signs from then on, until the next one's
	// activate_at or its own retire_at. Without activate_at it does not sign.
	ActivateAt time.Time
	// RetireAt is `retire_at`: the authority stops signing then, and stays in the trust bundle
	// until its certificates expire. Without it, the authority signs until another one starts.
	RetireAt time.Time
	// CompromisedAt is `compromised_at`: from then on another party may have the key. The authority
	// stops signing and leaves the trust bundle. Its window in trusted_root.json closes then.
	CompromisedAt time.Time
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
	l := &setLoader{decoder: &decoder{report: r}, set: set, dir: filepath.Dir(name)}
	l.object(
		field{name: "generation", read: l.count(&set.Generation)},
		field{name: "authorities", read: l.list(l.authority)},
	)(file.root)
	if _, ok := file.root.lookup("generation"); !ok {
		r.mistake(file.root.at, "generation is missing: it is a whole number from 1 on that grows with every edit")
	}
	if _, ok := file.root.lookup("authorities"); !ok {
		r.mistake(file.root.at, "authorities is missing: it lists the authorities of the set")
	}
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

// Explain maps every keypath error in err to its place in the file; nil for nil.
func (s *CASet) Explain(err error) error { return s.file.Mistakes(err).asError() }

// Files returns the other files that the set names.
func (s *CASet) Files() []string {
	var files []string
	for _, a := range s.Authorities {
		files = append(append(files, a.Chain), a.Signer.Files()...)
	}
	return files
}

// Chains returns the chain files that the set names.
func (s *CASet) Chains() (files []string) {
	for _, a := range s.Authorities {
		files = append(files, a.Chain)
	}
	return files
}

// setLoader reads a CA set.
type setLoader struct {
	*decoder
	set *CASet
	dir string
}

var authorityID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidAuthorityID reports whether id is a valid ID of an authority.
func ValidAuthorityID(id string) bool { return authorityID.MatchString(id) }

func (l *setLoader) authority(_ int, n *node) {
	var a CASetAuthority
	before := len(l.mistakes)
	l.object(
		field{name: "id", read: l.text(&a.ID)},
		field{name: "chain", read: l.path(&a.Chain)},
		field{name: "signer", read: l.signer(&a.Signer)},
		field{name: "publish_at", read: l.time(&a.PublishAt)},
		field{name: "activate_at", read: l.time(&a.ActivateAt)},
		field{name: "retire_at", read: l.time(&a.RetireAt)},
		field{name: "compromised_at", read: l.time(&a.CompromisedAt)},
	)(n)
	l.set.Authorities = append(l.set.Authorities, a)
	if len(l.mistakes) > before {
		return
	}
	if !ValidAuthorityID(a.ID) {
		l.mistake(n.at, "the authority has the id %q; an id has up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a", shorten(a.ID))
	}
	if a.Chain == "" {
		l.mistake(n.at, "authority %q has no chain", shorten(a.ID))
	}
	if a.PublishAt.IsZero() {
		l.mistake(n.at, "authority %q has no publish_at", shorten(a.ID))
	}
}

func (l *setLoader) path(into *string) reader {
	return func(n *node) {
		l.text(into)(n)
		if *into != "" && !filepath.IsAbs(*into) {
			*into = filepath.Join(l.dir, *into)
		}
	}
}

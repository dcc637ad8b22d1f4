// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"time"
)

// Ceremony is the file of `mayfly ca ceremony`: a root and the intermediates below it.
// Paths are relative to the file.
type Ceremony struct {
	Root          CeremonyRoot
	Intermediates []CeremonyIntermediate

	file *File
}

// CeremonyCertificate holds the keys that root and intermediates share.
type CeremonyCertificate struct {
	// CommonName is `common_name`. An intermediate's is "ORGANIZATION intermediate ID" by
	// default.
	CommonName string
	// Organization is `organization`. An intermediate's is the root's by default.
	Organization string
	// Algorithm is `algorithm` of a new key: ecdsa-p384 (the default), ecdsa-p256 or
	// rsa-4096.
	Algorithm string
	// NotBefore is `not_before`, by default the time of the ceremony.
	NotBefore time.Time
	// NotAfter is `not_after`, by default ten years later for a root; for an intermediate
	// three years later, or the root's end.
	NotAfter time.Time
	// PasswordFile is `password_file`: the password of the key. By default the ceremony generates
	// one and writes it beside the key. It never writes a given password of a root.
	PasswordFile string
	// Signer is `signer`: the key is in a hardware module or at a service. A module that has no key
	// of this label generates it. It excludes PasswordFile.
	Signer Signer
}

// CeremonyRoot is `root`.
type CeremonyRoot struct {
	CeremonyCertificate
	// Folder is `folder`: an existing root, as a folder with root.pem and key.pem. It excludes
	// everything except PasswordFile.
	Folder string
}

// CeremonyIntermediate is an entry of `intermediates`.
type CeremonyIntermediate struct {
	CeremonyCertificate
	// ID is `id`: the authority's ID in the CA set.
	ID string
	// Request is `request`: the certificate signing request of a key that is elsewhere. It excludes
	// Algorithm and PasswordFile.
	Request string
	// PublishAt and ActivateAt are `publish_at` and `activate_at`, for the CA set. By default the
	// first intermediate is published and signs from its NotBefore, and the others are only
	// published.
	PublishAt, ActivateAt time.Time
}

// LoadCeremony reads the plan of a ceremony. Its errors and warnings are those of
// LoadServer. It opens no other file.
func LoadCeremony(path string) (*Ceremony, []Mistake, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	r := &report{file: path}
	file, ok := parse(r, content, yamlOnly)
	if !ok {
		warnings, err := r.result()
		return nil, warnings, err
	}
	l := &ceremonyLoader{setLoader: &setLoader{decoder: &decoder{report: r}, dir: filepath.Dir(path)}, plan: &Ceremony{file: file}}
	l.object(
		field{name: "root", read: l.root},
		field{name: "intermediates", read: l.list(l.intermediate)},
	)(file.root)
	if _, ok := file.root.lookup("root"); !ok {
		r.mistake(file.root.at, "root is missing: it describes a new root, or names the folder of one")
	}
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return l.plan, warnings, nil
}

// Explain maps every keypath error in err to its place in the file; nil for nil.
func (c *Ceremony) Explain(err error) error { return c.file.Mistakes(err).asError() }

type ceremonyLoader struct {
	*setLoader
	plan *Ceremony
}

func (l *ceremonyLoader) certificate(c *CeremonyCertificate) []field {
	return []field{
		{name: "common_name", read: l.text(&c.CommonName)},
		{name: "organization", read: l.text(&c.Organization)},
		{name: "algorithm", read: l.text(&c.Algorithm)},
		{name: "not_before", read: l.time(&c.NotBefore)},
		{name: "not_after", read: l.time(&c.NotAfter)},
		{name: "password_file", read: l.path(&c.PasswordFile)},
		{name: "signer", read: func(n *node) {
			before := len(l.mistakes)
			l.signer(&c.Signer)(n)
			if len(l.mistakes) == before && c.Signer.File != nil {
				l.mistake(n.at, "a key in a file is made by the ceremony: leave signer out")
			}
		}},
	}
}

func (l *ceremonyLoader) root(n *node) {
	root := &l.plan.Root
	l.object(append(l.certificate(&root.CeremonyCertificate), field{name: "folder", read: l.path(&root.Folder)})...)(n)
	made := root.CeremonyCertificate
	made.PasswordFile = ""
	if root.Folder != "" && made != (CeremonyCertificate{}) {
		l.mistake(n.at, "folder names a root that is there already, and excludes every other key but password_file")
	}
	if root.Folder == "" && root.PasswordFile != "" && !root.Signer.IsZero() {
		l.mistake(n.at, "password_file is for a key in a file, and excludes signer")
	}
}

func (l *ceremonyLoader) intermediate(_ int, n *node) {
	var c CeremonyIntermediate
	before := len(l.mistakes)
	l.object(append(l.certificate(&c.CeremonyCertificate),
		field{name: "id", read: l.text(&c.ID)},
		field{name: "request", read: l.path(&c.Request)},
		field{name: "publish_at", read: l.time(&c.PublishAt)},
		field{name: "activate_at", read: l.time(&c.ActivateAt)},
	)...)(n)
	l.plan.Intermediates = append(l.plan.Intermediates, c)
	if len(l.mistakes) > before {
		return
	}
	if !ValidAuthorityID(c.ID) || c.ID == "root" {
		l.mistake(n.at, "the intermediate has the id %q; an id has up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a, and is not root", shorten(c.ID))
	}
	for _, other := range l.plan.Intermediates[:len(l.plan.Intermediates)-1] {
		if other.ID == c.ID {
			l.mistake(n.at, "two intermediates have the id %q", shorten(c.ID))
		}
	}
	if c.Request != "" && (c.Algorithm != "" || c.PasswordFile != "" || !c.Signer.IsZero()) {
		l.mistake(n.at, "request is for a key that is elsewhere, and excludes algorithm, password_file and signer")
	}
	if c.PasswordFile != "" && !c.Signer.IsZero() {
		l.mistake(n.at, "password_file is for a key in a file, and excludes signer")
	}
}

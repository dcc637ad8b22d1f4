// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"reflect"
	"strconv"
	"time"
)

// Ceremony is the file of `mayfly ca ceremony`: a root and the intermediates below it.
// Paths are relative to the file.
type Ceremony struct {
	Root          CeremonyRoot           `key:"root"`
	Intermediates []CeremonyIntermediate `key:"intermediates"`

	file *File
}

// CeremonyCertificate holds the keys that root and intermediates share.
type CeremonyCertificate struct {
	// CommonName is the common name of the certificate. By default an intermediate's is "ORGANIZATION
	// intermediate ID".
	CommonName string `key:"common_name"`
	// Organization is the organization of the certificate, by default the root's.
	Organization string `key:"organization"`
	// Algorithm is the algorithm of a new key: ecdsa-p384 (the default), ecdsa-p256 or
	// rsa-4096.
	Algorithm string `key:"algorithm"`
	// NotBefore is the start of the validity, by default the time of the ceremony.
	NotBefore time.Time `key:"not_before"`
	// NotAfter is the end of the validity, by default ten years later for a root; for an intermediate
	// three years later, or the root's end.
	NotAfter time.Time `key:"not_after"`
	// PasswordFile is `password_file`: the password of the key. By default the ceremony generates
	// one and writes it beside the key. It never writes a given password of a root.
	PasswordFile string `key:"password_file" kind:"path"`
	// Signer is `signer`: the key is in a hardware module or at a service. A module that has no key
	// of this label generates it. It excludes password_file.
	Signer Signer `key:"signer"`
}

// CeremonyRoot is `root`: a new root, or the folder of an existing one.
type CeremonyRoot struct {
	CeremonyCertificate `key:""`
	// Folder is `folder`: an existing root, as a folder with root.pem and key.pem. It excludes
	// everything except password_file.
	Folder string `key:"folder" kind:"path"`
}

// CeremonyIntermediate is an entry of `intermediates`: an issuing CA below the root.
type CeremonyIntermediate struct {
	CeremonyCertificate `key:""`
	// ID is `id`: the authority's ID in the CA set.
	ID string `key:"id"`
	// Request is `request`: the certificate signing request of a key that is elsewhere. It excludes
	// algorithm and password_file.
	Request string `key:"request" kind:"path"`
	// PublishAt is that of the authority in the CA set, by default its NotBefore.
	PublishAt time.Time `key:"publish_at"`
	// ActivateAt is that of the authority in the CA set. By default the first intermediate signs from
	// its NotBefore, and the others have none.
	ActivateAt time.Time `key:"activate_at"`
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
	plan := &Ceremony{file: file}
	c := checks{decoder: &decoder{report: r, dir: filepath.Dir(path)}}
	c.object(file.root, reflect.ValueOf(plan).Elem())
	c.tags(reflect.ValueOf(plan).Elem(), nil)
	if _, ok := file.root.lookup("root"); !ok {
		c.wrong([]string{"root"}, "root is missing: it describes a new root, or names the folder of one")
	}
	c.ceremony(plan)
	c.report(file, file.Mistakes)
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return plan, warnings, nil
}

// WithPlaces maps every keypath error in err to its place in the file; nil for nil.
func (c *Ceremony) WithPlaces(err error) error { return c.file.Mistakes(err).asError() }

// ceremony checks what the tags of a ceremony do not state.
func (c *checks) ceremony(plan *Ceremony) {
	root := plan.Root
	described := root.CeremonyCertificate
	described.PasswordFile = ""
	if root.Folder != "" && described != (CeremonyCertificate{}) {
		c.wrong([]string{"root"}, "folder names an existing root, and excludes every other key but password_file")
	}
	c.ceremonyKey(plan, root.CeremonyCertificate, []string{"root"})
	seen := map[string]bool{}
	for i, m := range plan.Intermediates {
		path := []string{"intermediates", strconv.Itoa(i)}
		if !ValidAuthorityID(m.ID) || m.ID == "root" {
			c.wrong(join(path, "id"), "found the id %q, expected up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a, and not root", shorten(m.ID))
		} else if seen[m.ID] {
			c.wrong(join(path, "id"), "two intermediates have the id %q", shorten(m.ID))
		}
		seen[m.ID] = true
		if m.Request != "" && (m.Algorithm != "" || m.PasswordFile != "" || !m.Signer.IsZero()) {
			c.wrong(path, "request is for a key that is elsewhere, and excludes algorithm, password_file and signer")
			continue
		}
		c.ceremonyKey(plan, m.CeremonyCertificate, path)
	}
}

func (c *checks) ceremonyKey(plan *Ceremony, m CeremonyCertificate, path []string) {
	_, _, missing := plan.file.walk(join(path, "signer"))
	switch {
	case missing != "": // a signer without a kind must not become a key in a file
		return
	case m.Signer.File != nil:
		c.wrong(join(path, "signer"), "the ceremony creates a key in a file itself: remove signer")
	case m.PasswordFile != "":
		c.wrong(join(path, "password_file"), "password_file is for a key in a file, and excludes signer")
	}
	c.signer(m.Signer, join(path, "signer"))
}

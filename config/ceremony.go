// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strconv"
	"time"
)

// Ceremony is the file of `mayfly ca ceremony`: a root and the intermediates below it.
// Paths are relative to the file.
type Ceremony struct {
	Root          CeremonyRoot           `key:"root"`
	Intermediates []CeremonyIntermediate `key:"intermediates"`

	*File
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
func LoadCeremony(path string) (*Ceremony, []Mistake, error) { return loaded(path, parseCeremony) }

func parseCeremony(name string, content []byte) (*Ceremony, []Mistake, error) {
	d := newDecoder(name)
	plan := &Ceremony{File: d.File}
	d.read(content, false, plan)
	return result(d, plan)
}

func (c *Ceremony) check(d *decoder, _ []string) {
	if !d.Sets("root") {
		d.wrong([]string{"root"}, "root is missing: it describes a new root, or names the folder of one")
	}
	for i, m := range c.Intermediates {
		if slices.ContainsFunc(c.Intermediates[:i], func(other CeremonyIntermediate) bool { return other.ID == m.ID }) {
			d.wrong([]string{"intermediates", strconv.Itoa(i), "id"}, "two intermediates have the id %q", shorten(m.ID))
		}
	}
}

func (c *CeremonyRoot) check(d *decoder, path []string) {
	described := c.CeremonyCertificate
	described.PasswordFile = ""
	if c.Folder != "" && described != (CeremonyCertificate{}) {
		d.wrong(path, "folder names an existing root, and excludes every other key but password_file")
	}
	c.CeremonyCertificate.check(d, path)
}

func (c *CeremonyIntermediate) check(d *decoder, path []string) {
	if !ValidAuthorityID(c.ID) || c.ID == "root" {
		d.wrong(join(path, "id"), "found the id %q, expected up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a, and not root", shorten(c.ID))
	}
	if c.Request != "" && (c.Algorithm != "" || c.PasswordFile != "" || !c.Signer.IsZero()) {
		d.wrong(path, "request is for a key that is elsewhere, and excludes algorithm, password_file and signer")
		return
	}
	c.CeremonyCertificate.check(d, path)
}

func (c *CeremonyCertificate) check(d *decoder, path []string) {
	switch {
	case !d.Sets(join(path, "signer")...):
	case c.Signer.File != nil:
		d.wrong(join(path, "signer"), "the ceremony creates a key in a file itself: remove signer")
	case c.PasswordFile != "":
		d.wrong(join(path, "password_file"), "password_file is for a key in a file, and excludes signer")
	}
}

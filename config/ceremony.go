// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strconv"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
)

// Ceremony is the file of `mayfly ca ceremony`: a root and the intermediates below it.
// Paths are relative to the file.
type Ceremony struct {
	Root          CeremonyRoot           `key:"root"`
	Intermediates []CeremonyIntermediate `key:"intermediates"`

	*File
}

// CeremonyKey is where the key of a root or an intermediate is.
type CeremonyKey struct {
	// PasswordFile is `password_file`: the password of the key. By default the ceremony generates
	// one and writes it beside the key. It never writes a given password of a root.
	PasswordFile string `key:"password_file" kind:"path"`
	// Signer is `signer`: the key is in a hardware module or at a service. A module that has no key
	// of this label generates it. It excludes password_file.
	Signer Signer `key:"signer"`
}

// CeremonyRoot is `root`: a new root, or the folder of an existing one.
type CeremonyRoot struct {
	Planned     ceremony.PlannedCertificate `key:""`
	CeremonyKey `key:""`
	// Folder is `folder`: an existing root, as a folder with root.pem and key.pem. It excludes
	// everything except password_file.
	Folder string `key:"folder" kind:"path"`
}

// CeremonyIntermediate is an entry of `intermediates`: an issuing CA below the root.
type CeremonyIntermediate struct {
	Planned     ceremony.PlannedIntermediate `key:""`
	CeremonyKey `key:""`
	// Request is `request`: the certificate signing request of a key that is elsewhere. It excludes
	// algorithm and password_file.
	Request string `key:"request" kind:"path"`
}

// LoadCeremony reads the plan of a ceremony. Its errors and warnings are those of
// LoadServer. It opens no other file.
func LoadCeremony(path string) (*Ceremony, []error, error) { return loaded(path, parseCeremony) }

func parseCeremony(name string, content []byte) (*Ceremony, []error, error) {
	d := newDecoder(name)
	plan := &Ceremony{File: d.File}
	d.read(content, false, plan)
	return result(d, plan)
}

func (c *Ceremony) check(d *decoder, _ []string) {
	if !d.Sets("root") {
		d.wrong([]string{"root"}, "root is missing: it describes a new root, or names the folder of one")
	}
	seen := map[string]bool{}
	for i, m := range c.Intermediates {
		if id := m.Planned.ID; seen[id] {
			d.wrong([]string{"intermediates", strconv.Itoa(i), "id"}, "two intermediates have the id %q", shorten(id))
		}
		seen[m.Planned.ID] = true
	}
}

func (c *CeremonyRoot) check(d *decoder, path []string) {
	if c.Folder != "" && !(reflect.ValueOf(c.Planned).IsZero() && c.Signer.IsZero()) {
		d.wrong(path, "folder names an existing root, and excludes every other key but password_file")
	}
	c.CeremonyKey.check(d, path)
}

func (c *CeremonyIntermediate) check(d *decoder, path []string) {
	if id := c.Planned.ID; !ValidAuthorityID(id) || id == "root" {
		d.wrong(join(path, "id"), "found the id %q, expected up to 64 lower-case letters, digits, dots, hyphens and underscores, as in 2026-a, and not root", shorten(id))
	}
	if c.Request != "" && (c.Planned.Algorithm != "" || c.CeremonyKey != (CeremonyKey{})) {
		d.wrong(path, "request is for a key that is elsewhere, and excludes algorithm, password_file and signer")
		return
	}
	c.CeremonyKey.check(d, path)
}

func (c *CeremonyKey) check(d *decoder, path []string) {
	switch {
	case !d.Sets(join(path, "signer")...):
	case c.Signer.File != nil:
		d.wrong(join(path, "signer"), "the ceremony creates a key in a file itself: remove signer")
	case c.PasswordFile != "":
		d.wrong(join(path, "password_file"), "password_file is for a key in a file, and excludes signer")
	}
}

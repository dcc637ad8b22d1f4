// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Plan is a ceremony: a new or existing root, and intermediates below it. Init and NewAuthority are
// plans too.
type Plan struct {
	// Dir is the folder for all files. It must not exist, or be empty.
	Dir string
	// Root is a new root; it is ignored where Parent is set.
	Root PlannedCertificate
	// Parent is an existing root; its Signer may be nil for Check.
	Parent        *Parent
	Intermediates []PlannedIntermediate
	// Now is the time of the ceremony.
	Now time.Time
	// Notes begin the transcript: the program's version, the digest of the plan's file.
	Notes []string

	// head begins the comment of the CA set.
	head string
	// silent: no transcript is written.
	silent bool
}

// Parent is a CA that certifies intermediates.
type Parent struct {
	// Chain has its certificate first, then those above it up to the root.
	Chain  []*x509.Certificate
	Signer crypto.Signer
}

// PlannedCertificate is a CA with a new key. The fields with tags are keys of the plan's file.
type PlannedCertificate struct {
	Subject Subject `key:""`
	// Algorithm is the algorithm of a new key: ecdsa-p384 (the default), ecdsa-p256 or
	// rsa-4096.
	Algorithm string `key:"algorithm"`
	// NotBefore is the start of the validity, by default the time of the ceremony.
	NotBefore time.Time `key:"not_before"`
	// NotAfter is the end of the validity, by default ten years later for a root; for an intermediate
	// three years later, or the root's end.
	NotAfter time.Time `key:"not_after"`
	// Password encrypts the key; empty to generate one, which is written beside it.
	Password []byte
	// Signer is a key outside the ceremony's files; nil to generate one in a file. It
	// excludes Password.
	Signer *ExternalKey
}

// PlannedIntermediate is a new intermediate.
type PlannedIntermediate struct {
	PlannedCertificate `key:""`
	// ID is the authority's ID in the CA set.
	//
	// It is also its folder; "" for Dir itself, without a set.
	ID string `key:"id"`
	// Request is a certificate signing request, PEM; empty to generate a key.
	Request []byte
	// PublishAt is that of the authority in the CA set, by default its NotBefore.
	PublishAt time.Time `key:"publish_at"`
	// ActivateAt is that of the authority in the CA set. By default the first intermediate signs from
	// its NotBefore, and the others have none.
	ActivateAt time.Time `key:"activate_at"`
}

// The names of the files of a ceremony.
const (
	setFile        = "ca.yaml"
	rootDir        = "root"
	rootFile       = "root.pem"
	chainFile      = "chain.pem"
	keyFile        = "key.pem"
	passwordFile   = "pass"
	transcriptFile = "transcript.txt" // what the ceremony did
)

// Check reports every mistake that can be found without opening or generating a key: it rehearses
// the whole ceremony with temporary keys. Its errors are those of Run.
func (p Plan) Check() error {
	errs := []error{checkEmpty(p.Dir)}
	if p.Parent == nil {
		errs = append(errs, keypath.Prefix(p.Root.check("root password"), "root"))
	}
	for i, planned := range p.Intermediates {
		if len(planned.Request) == 0 {
			errs = append(errs, keypath.Prefix(planned.check("password"), "intermediates", strconv.Itoa(i)))
		}
	}
	if err := errors.Join(append(errs, checkDistinct(p.keys()))...); err != nil {
		return err
	}
	_, err := p.execute(false)
	return err
}

// keys returns the external keys, the root's first; nil for a key in a file.
func (p Plan) keys() (keys []*ExternalKey) {
	if p.Parent == nil {
		keys = append(keys, p.Root.Signer)
	}
	for _, planned := range p.Intermediates {
		keys = append(keys, planned.Signer)
	}
	return keys
}

func (p PlannedCertificate) check(password string) error {
	return errors.Join(p.Subject.check(), checkAlgorithm(p.Algorithm), checkKeySource(p.Signer, p.Algorithm, password, p.Password))
}

// Run executes a plan and returns its transcript, which is also stored in Dir. If it fails, it
// leaves nothing behind except external keys that it generated, which the error names. Errors
// of the plan have key paths such as ["intermediates", "0", "not_after"].
func Run(plan Plan) (transcript string, err error) {
	c, err := plan.run()
	if err != nil {
		return "", err
	}
	return c.transcript.String(), nil
}

func (p Plan) run() (c *ceremony, err error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	err = create(p.Dir, p.keys(), func() ([]file, error) {
		var err error
		if c, err = p.execute(true); err != nil {
			return nil, err
		}
		if !p.silent {
			c.files = append(c.files, file{"", transcriptFile, publicMode, []byte(c.transcript.String())})
		}
		return c.files, nil
	})
	return c, err
}

// ceremony is the state of a running Plan, in memory.
type ceremony struct {
	plan Plan
	// real is false for a rehearsal: absent keys are temporary, and no key of the CA signs.
	real          bool
	transcript    strings.Builder
	files         []file
	root          Parent
	intermediates []*x509.Certificate
	set           []string // entries of the CA set
}

// execute creates everything in memory, except external keys.
func (p Plan) execute(real bool) (*ceremony, error) {
	p.Now = p.Now.UTC().Truncate(time.Second)
	c := &ceremony{plan: p, real: real}
	c.note("A ceremony for a certificate authority, at %s.", stamp(p.Now))
	for _, note := range p.Notes {
		c.note("%s", note)
	}
	if err := c.addRoot(); err != nil {
		return nil, keypath.Prefix(err, "root")
	}
	for i, planned := range p.Intermediates {
		if err := c.addIntermediate(planned); err != nil {
			return nil, keypath.Prefix(err, "intermediates", strconv.Itoa(i))
		}
	}
	if len(c.set) > 0 {
		c.files = append(c.files, c.setFile())
	}
	c.note("\nFiles, with the SHA-256 of those that are public:")
	for _, f := range c.files {
		digest := "(secret)"
		if f.mode == publicMode {
			digest = fmt.Sprintf("%x", sha256.Sum256(f.content))
		}
		c.note("  %s %s", filepath.Join(f.folder, f.name), digest)
	}
	return c, nil
}

// setFile is the CA set with the entries in c.set.
func (c *ceremony) setFile() file {
	head := cmp.Or(c.plan.head, "# The CA set, made by mayfly ca ceremony. Paths are relative to this file.\n")
	return file{"", setFile, publicMode, []byte(head + "generation: 1\nauthorities:\n" + strings.Join(c.set, ""))}
}

func (c *ceremony) note(format string, args ...any) {
	fmt.Fprintf(&c.transcript, format+"\n", args...)
}

// key generates and records a key, or records the external one. In a rehearsal the signer is nil.
func (c *ceremony) key(planned PlannedCertificate) (public crypto.PublicKey, key crypto.Signer, err error) {
	switch {
	case c.real:
		key, err = newKey(planned.Signer, planned.Algorithm)
	case planned.Signer != nil && planned.Signer.Signer != nil:
		return planned.Signer.Signer.Public(), nil, nil
	default:
		temporary, err := GenerateKey("ecdsa-p256")
		if err != nil {
			return nil, nil, err
		}
		return temporary.Public(), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	what := cmp.Or(planned.Algorithm, DefaultAlgorithm) + ", generated now"
	if planned.Signer != nil {
		what = planned.Signer.describe()
	}
	c.note("  key: %s; SHA-256 of its SubjectPublicKeyInfo %x", what, sha256.Sum256(spki))
	return key.Public(), key, nil
}

func (c *ceremony) addRoot() error {
	c.note("\nRoot")
	if c.plan.Parent != nil {
		c.root = *c.plan.Parent
		c.note("  it was there already")
		c.describe(c.root.Chain[0])
		if c.plan.silent { // mayfly ca add accepts a root of another origin
			return nil
		}
		return Conform(c.root.Chain[len(c.root.Chain)-1], nil)
	}
	planned := c.plan.Root
	if planned.NotBefore.IsZero() {
		planned.NotBefore = c.plan.Now
	}
	public, key, err := c.key(planned)
	if err != nil {
		return err
	}
	root, err := newRoot(planned, public, key)
	if err != nil {
		return err
	}
	c.note("  rehearsed with a key that was thrown away, and held against the certificate specification: it conforms")
	c.describe(root)
	c.root = Parent{Chain: []*x509.Certificate{root}, Signer: key}
	c.files = append(c.files, file{rootDir, rootFile, publicMode, chainPEM(root)})
	if !c.real {
		return nil
	}
	files, _, err := keyFiles(rootDir, key, planned, c.plan.Dir)
	c.files = append(c.files, files...)
	return err
}

func (c *ceremony) addIntermediate(planned PlannedIntermediate) error {
	c.note("\nIntermediate %s", planned.ID)
	if planned.NotBefore.IsZero() {
		planned.NotBefore = c.plan.Now
	}
	var public crypto.PublicKey
	var key crypto.Signer
	var err error
	if len(planned.Request) > 0 {
		c.note("  key: elsewhere; the request has SHA-256 %x, and its own signature verifies", sha256.Sum256(planned.Request))
		planned.Subject, public, err = parseRequest(planned.Request, planned.Subject)
	} else {
		public, key, err = c.key(planned.PlannedCertificate)
	}
	if err != nil {
		return err
	}
	parentKey := c.root.Signer
	if !c.real {
		parentKey = nil
	}
	intermediate, err := newIntermediate(planned.PlannedCertificate, public, c.root.Chain[0], parentKey)
	if err != nil || !c.real {
		return err
	}
	c.intermediates = append(c.intermediates, intermediate)
	c.note("  rehearsed with a key that was thrown away, and held against the certificate specification: it conforms")
	c.describe(intermediate)
	chain := append([]*x509.Certificate{intermediate}, c.root.Chain...)
	if _, err := intermediate.Verify(certs.CodeSigning(c.root.Chain, intermediate.NotBefore)); err != nil {
		return fmt.Errorf("verifying the chain: %w", err)
	}
	c.note("  verified to the root, for code signing")
	c.files = append(c.files, file{planned.ID, chainFile, publicMode, chainPEM(chain...)})
	if key == nil {
		c.note("  add it where its key is: mayfly ca add %s --chain chain.pem --key …", planned.ID)
		return nil
	}
	files, block, err := keyFiles(planned.ID, key, planned.PlannedCertificate, c.plan.Dir)
	if err == nil && planned.ID != "" {
		c.addToSet(planned, block, intermediate)
	}
	c.files = append(c.files, files...)
	return err
}

func (c *ceremony) describe(certificate *x509.Certificate) {
	c.note("  certificate: %s\n  serial number: %040x\n  valid from %s to %s\n  SHA-256: %x\n  held against the certificate specification after it was signed: it conforms",
		certificate.Subject, certificate.SerialNumber, stamp(certificate.NotBefore), stamp(certificate.NotAfter), sha256.Sum256(certificate.Raw))
}

// addToSet adds an entry to the CA set: the first one signs from its beginning, the others
// are published.
func (c *ceremony) addToSet(planned PlannedIntermediate, block string, intermediate *x509.Certificate) {
	publish, activate := planned.PublishAt, planned.ActivateAt
	if publish.IsZero() {
		publish = intermediate.NotBefore
	}
	if activate.IsZero() && len(c.set) == 0 {
		activate = publish
	}
	entry := fmt.Sprintf("  - id: %[1]s\n    chain: %[1]s/%[2]s # intermediate first, root last\n    signer: %[3]s\n    publish_at: %[4]s\n",
		planned.ID, chainFile, block, stamp(publish))
	if !activate.IsZero() {
		entry += "    activate_at: " + stamp(activate) + "\n"
	}
	c.set = append(c.set, entry)
}

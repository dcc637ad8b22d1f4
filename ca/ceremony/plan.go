// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Plan is a ceremony: a new or existing root, and intermediates below it.
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
}

// PlannedCertificate is a CA with a new key.
type PlannedCertificate struct {
	Subject Subject
	// Algorithm is one of Algorithms(); "" for DefaultAlgorithm, or for the algorithm of an
	// existing key.
	Algorithm string
	// NotBefore is Plan.Now where it is zero; NotAfter as in RootConfig and
	// IntermediateConfig.
	NotBefore, NotAfter time.Time
	// Password encrypts the key; empty to generate one, which is written beside it.
	Password []byte
	// Signer is a key outside the ceremony's files; nil to generate one in a file. It
	// excludes Password.
	Signer *ExternalKey
}

// PlannedIntermediate is a new intermediate.
type PlannedIntermediate struct {
	PlannedCertificate
	ID string
	// Request is a certificate signing request, PEM; empty to generate a key.
	Request []byte
	// PublishAt and ActivateAt go into the CA set; zero for the defaults.
	PublishAt, ActivateAt time.Time
}

// transcriptFile describes what the ceremony did.
const transcriptFile = "transcript.txt"

// ceremony is the state of a running Plan. It writes no file before all are created.
type ceremony struct {
	plan       Plan
	transcript strings.Builder
	files      []file
	root       Parent
	set        []string // entries of the CA set
}

// Run executes a plan and returns its transcript, which is also stored in Dir. If it fails, it
// leaves nothing behind except external keys that it generated, which the error names. Errors
// of the plan have key paths such as ["intermediates", "0", "not_after"].
func Run(plan Plan) (transcript string, err error) {
	if err := plan.Check(); err != nil {
		return "", err
	}
	defer func() {
		for _, key := range plan.keys() {
			err = key.Stays(err)
		}
	}()
	place, err := reserve(plan.Dir)
	if err != nil {
		return "", fmt.Errorf("writing the ceremony to %s: %w", plan.Dir, err)
	}
	defer func() { err = place.release(err) }()
	plan.Now = plan.Now.UTC().Truncate(time.Second)
	c := &ceremony{plan: plan}
	if err := c.make(); err != nil {
		return "", err
	}
	transcript = c.transcript.String()
	c.files = append(c.files, file{"", transcriptFile, publicMode, []byte(transcript)})
	if err := place.write(c.files); err != nil {
		return "", fmt.Errorf("writing the ceremony to %s: %w", plan.Dir, err)
	}
	return transcript, nil
}

// make creates everything in memory, except external keys.
func (c *ceremony) make() error {
	c.note("A ceremony for a certificate authority, at %s.", c.plan.Now.Format(time.RFC3339))
	for _, note := range c.plan.Notes {
		c.note("%s", note)
	}
	if err := c.makeRoot(); err != nil {
		return keypath.Prefix(err, "root")
	}
	for i := range c.plan.Intermediates {
		if err := c.makeIntermediate(i); err != nil {
			return keypath.Prefix(err, "intermediates", strconv.Itoa(i))
		}
	}
	if len(c.set) > 0 {
		content := "# The CA set, made by mayfly ca ceremony. Paths are relative to this file.\ngeneration: 1\nauthorities:\n" + strings.Join(c.set, "")
		c.files = append(c.files, file{"", setFile, publicMode, []byte(content)})
	}
	c.note("\nFiles, with the SHA-256 of those that are public:")
	for _, f := range c.files {
		digest := "(secret)"
		if f.mode == publicMode {
			digest = fmt.Sprintf("%x", sha256.Sum256(f.content))
		}
		c.note("  %s %s", filepath.Join(f.folder, f.name), digest)
	}
	return nil
}

func (c *ceremony) note(format string, args ...any) {
	fmt.Fprintf(&c.transcript, format+"\n", args...)
}

// orNow returns t, or the time of the ceremony if t is zero.
func (p Plan) orNow(t time.Time) time.Time {
	if t.IsZero() {
		return p.Now
	}
	return t
}

// newKey generates and records a key, or records the external one.
func (c *ceremony) newKey(planned PlannedCertificate) (crypto.Signer, error) {
	key, err := newKey(planned.Signer, planned.Algorithm)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	what := cmp.Or(planned.Algorithm, DefaultAlgorithm) + ", generated now"
	if planned.Signer != nil {
		what = planned.Signer.describe()
	}
	c.note("  key: %s; SHA-256 of its SubjectPublicKeyInfo %x", what, sha256.Sum256(spki))
	return key, nil
}

func (c *ceremony) makeRoot() error {
	c.note("\nRoot")
	if c.plan.Parent != nil {
		c.root = *c.plan.Parent
		c.note("  it was there already")
		c.describe(c.root.Chain[0])
		return nil
	}
	planned := c.plan.Root
	key, err := c.newKey(planned)
	if err != nil {
		return err
	}
	root, err := Root(c.plan.root(key))
	if err != nil {
		return err
	}
	c.note("  rehearsed with a key that was thrown away, and held against the certificate specification: it conforms")
	c.describe(root)
	c.root = Parent{Chain: []*x509.Certificate{root}, Signer: key}
	c.files = append(c.files, file{rootDir, rootFile, publicMode, certificatePEM(root)})
	files, err := rootKeyFiles(key, planned.Signer, filepath.Join(c.plan.Dir, rootDir), planned.Password)
	c.files = append(c.files, files...)
	return err
}

func (c *ceremony) makeIntermediate(i int) error {
	planned := c.plan.Intermediates[i]
	c.note("\nIntermediate %s", planned.ID)
	var (
		key          crypto.Signer
		intermediate *x509.Certificate
		err          error
	)
	if len(planned.Request) > 0 {
		c.note("  key: elsewhere; the request has SHA-256 %x, and its own signature verifies", sha256.Sum256(planned.Request))
		_, intermediate, err = SignRequest(c.plan.request(planned, c.root))
	} else {
		if key, err = c.newKey(planned.PlannedCertificate); err != nil {
			return err
		}
		intermediate, err = Intermediate(c.plan.intermediate(planned, c.root, key.Public()))
	}
	if err != nil {
		return err
	}
	c.note("  rehearsed with a key that was thrown away, and held against the certificate specification: it conforms")
	c.describe(intermediate)
	chain := append([]*x509.Certificate{intermediate}, c.root.Chain...)
	if err := verifyChain(chain); err != nil {
		return err
	}
	c.note("  verified to the root, for code signing")
	c.files = append(c.files, file{planned.ID, chainFile, publicMode, ChainPEM(chain)})
	if key == nil {
		c.note("  add it where its key is: mayfly ca add %s --chain chain.pem --key …", planned.ID)
		return nil
	}
	files, block, err := keyFiles(planned.ID, key, planned.Signer, c.plan.Dir, planned.Password)
	if err != nil {
		return err
	}
	c.addToSet(i, block, intermediate)
	c.files = append(c.files, files...)
	return nil
}

// verifyChain verifies as a client does.
func verifyChain(chain []*x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1 : len(chain)-1] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: chain[0].NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return fmt.Errorf("verifying the chain: %w", err)
	}
	return nil
}

func (c *ceremony) describe(certificate *x509.Certificate) {
	c.note("  certificate: %s\n  serial number: %040x\n  valid from %s to %s\n  SHA-256: %x\n  held against the certificate specification after it was signed: it conforms",
		certificate.Subject, certificate.SerialNumber, certificate.NotBefore.UTC().Format(time.RFC3339), certificate.NotAfter.UTC().Format(time.RFC3339), sha256.Sum256(certificate.Raw))
}

// addToSet adds an entry to the CA set: the first one signs from its beginning, the others
// are published.
func (c *ceremony) addToSet(i int, block string, intermediate *x509.Certificate) {
	planned := c.plan.Intermediates[i]
	publish, activate := planned.PublishAt, planned.ActivateAt
	if publish.IsZero() {
		publish = intermediate.NotBefore
	}
	if activate.IsZero() && len(c.set) == 0 {
		activate = publish
	}
	entry := fmt.Sprintf("  - id: %[1]s\n    chain: %[1]s/%[2]s # intermediate first, root last\n    signer: %[3]s\n    publish_at: %[4]s\n",
		planned.ID, chainFile, block, publish.UTC().Format(time.RFC3339))
	if !activate.IsZero() {
		entry += "    activate_at: " + activate.UTC().Format(time.RFC3339) + "\n"
	}
	c.set = append(c.set, entry)
}

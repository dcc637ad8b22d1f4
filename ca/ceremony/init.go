// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// InitConfig describes a new CA: a root, valid for 10 years, and one intermediate, valid for 3.
type InitConfig struct {
	// Dir is the folder for the CA. It must not exist, or be empty.
	Dir string
	// Organization is the O of both certificates; "" for "mayfly". CommonName begins the CN of
	// both; "" for Organization.
	Organization, CommonName string
	// Algorithm is of both keys, one of Algorithms(); "" for DefaultAlgorithm, or for the
	// algorithm of an existing key.
	Algorithm string
	// Password encrypts the intermediate's key; empty to generate one. Either way it is
	// written beside the key, since a server that starts unattended needs it.
	Password []byte
	// RootPassword encrypts the root's key and is not written to a file; empty to generate
	// one, which is written beside the root's key.
	RootPassword []byte
	// Signer and RootSigner are keys outside the CA's files; nil to generate one in a file.
	// They exclude Password and RootPassword.
	Signer, RootSigner *ExternalKey
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// AuthorityConfig describes a new authority for a CA set.
type AuthorityConfig struct {
	// Dir is the folder for chain.pem, key.pem and pass. It must not exist, or be empty.
	Dir string
	PlannedCertificate
	// Parent's Signer may be nil for Check.
	Parent Parent
}

// Result is what Init or NewAuthority created, in paths below Dir. It holds no secret.
type Result struct {
	// ChainFile is PEM, the intermediate first and the root last.
	ChainFile string
	// KeyFile is the intermediate's encrypted key, PasswordFile its password; "" if the key is
	// an ExternalKey.
	KeyFile, PasswordFile string
	Intermediate          *x509.Certificate

	// What follows is of Init alone. AuthorityID names the authority in the CA set, as in 2026-a.
	AuthorityID string
	// SetFile is the CA set, ca.yaml.
	SetFile string
	// RootDir holds root.pem, the root's encrypted key as key.pem, and pass if the password
	// was generated; for an ExternalKey, signer.yaml in their place. The operator must take
	// it offline: the server never reads it.
	RootDir string
	Root    *x509.Certificate
	// Keys describe each ExternalKey, the root's first.
	Keys []string
}

// plan returns the plan of a root and one intermediate, which signs at once.
func (cfg InitConfig) plan() Plan {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	now := cfg.Now()
	id := fmt.Sprintf("%d-a", now.UTC().Year())
	organization := cmp.Or(cfg.Organization, "mayfly")
	planned := func(name string, password []byte, key *ExternalKey) PlannedCertificate {
		return PlannedCertificate{Subject: Subject{cmp.Or(cfg.CommonName, organization) + name, organization}, Algorithm: cfg.Algorithm, Password: password, Signer: key}
	}
	return Plan{
		Dir: cfg.Dir, Now: now, silent: true,
		head: "# The CA set, made by mayfly ca init. Paths are relative to this file.\n# Nothing here reads " + rootDir + "/: take it offline.\n",
		Root: planned(" root", cfg.RootPassword, cfg.RootSigner),
		Intermediates: []PlannedIntermediate{
			{PlannedCertificate: planned(" intermediate "+id, cfg.Password, cfg.Signer), ID: id},
		},
	}
}

func (cfg AuthorityConfig) plan() Plan {
	return Plan{Dir: cfg.Dir, Now: cfg.NotBefore, Parent: &cfg.Parent, silent: true, Intermediates: []PlannedIntermediate{{PlannedCertificate: cfg.PlannedCertificate}}}
}

// Check reports every mistake that can be found without opening or generating a key.
func (cfg InitConfig) Check() error { return keypath.Sentences(cfg.plan().Check()) }

// Check reports every mistake that can be found without opening or generating a key.
func (cfg AuthorityConfig) Check() error { return keypath.Sentences(cfg.plan().Check()) }

// Init creates a root, an intermediate and a CA set in an empty folder:
//
//	ca.yaml                               the CA set, one authority, active at once
//	2026-a/chain.pem, key.pem, pass       the intermediate
//	root/root.pem, key.pem, pass          the root
//
// Folders have mode 0700, keys and passwords 0600. The files are durable when Init returns;
// ca.yaml appears last. If Init fails, it leaves nothing behind except external keys that it
// generated, which the error names. If the machine stops meanwhile, there is no ca.yaml.
func Init(cfg InitConfig) (*Result, error) {
	plan := cfg.plan()
	result, err := plan.single()
	if err != nil {
		return nil, err
	}
	result.AuthorityID, result.SetFile, result.RootDir = plan.Intermediates[0].ID, filepath.Join(cfg.Dir, setFile), filepath.Join(cfg.Dir, rootDir)
	if cfg.RootSigner != nil {
		result.Keys = append(result.Keys, "The key of root: "+cfg.RootSigner.describe()+".")
	}
	if cfg.Signer != nil {
		result.Keys = append(result.Keys, "The key of "+result.AuthorityID+": "+cfg.Signer.describe()+".")
	}
	return result, nil
}

// NewAuthority creates a key and an intermediate below Parent, in their own folder. If it
// fails, it leaves nothing behind except an ExternalKey that it generated, which the error
// names.
func NewAuthority(cfg AuthorityConfig) (*Result, error) { return cfg.plan().single() }

// single executes a plan with one intermediate, which no file holds.
func (p Plan) single() (*Result, error) {
	c, err := p.run()
	if err != nil {
		return nil, keypath.Sentences(err)
	}
	in := func(name string) string { return filepath.Join(p.Dir, p.Intermediates[0].ID, name) }
	result := &Result{ChainFile: in(chainFile), Intermediate: c.intermediates[0], Root: c.root.Chain[len(c.root.Chain)-1]}
	if p.Intermediates[0].Signer == nil {
		result.KeyFile, result.PasswordFile = in(keyFile), in(passwordFile)
	}
	return result, nil
}

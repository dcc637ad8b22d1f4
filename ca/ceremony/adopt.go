// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/x509"
	"path/filepath"
	"time"
)

// AdoptConfig describes an existing CA for a new CA set. The caller has checked that its chain and
// its key are a CA's, and belong together.
type AdoptConfig struct {
	// Dir is the folder for the CA set. It must not exist, or be empty.
	Dir string
	// ID names the authority in the set.
	ID string
	// Chain has the issuing CA first and the root last.
	Chain []*x509.Certificate
	// Since is when the CA began to sign.
	Since time.Time
	// Key is its private key, of which Dir gets a copy; nil with Signer.
	Key crypto.Signer
	// Signer is its key outside of files.
	Signer *ExternalKey
}

// Adopt creates a CA set with one existing authority, which is active at once, in an empty folder:
//
//	ca.yaml                               the CA set
//	2026-a/chain.pem                      the chain
//	2026-a/key.pem, pass                  a copy of the key, encrypted with a new password
//
// Modes and durability are those of Init. If Adopt fails, it leaves nothing behind.
func Adopt(cfg AdoptConfig) (*Result, error) {
	if err := checkEmpty(cfg.Dir); err != nil {
		return nil, err
	}
	c := &ceremony{plan: Plan{head: "# The CA set of a CA that mayfly ca init has adopted. Paths are relative to this file.\n"}}
	planned := PlannedIntermediate{ID: cfg.ID, PublishAt: cfg.Since, PlannedCertificate: PlannedCertificate{Signer: cfg.Signer}}
	err := create(cfg.Dir, nil, func() ([]file, error) {
		keys, block, err := keyFiles(cfg.ID, cfg.Key, planned.PlannedCertificate, cfg.Dir)
		c.addToSet(planned, block, cfg.Chain[0])
		return append(append([]file{{cfg.ID, chainFile, publicMode, chainPEM(cfg.Chain...)}}, keys...), c.setFile()), err
	})
	if err != nil {
		return nil, err
	}
	return &Result{
		ChainFile: filepath.Join(cfg.Dir, cfg.ID, chainFile), Intermediate: cfg.Chain[0],
		AuthorityID: cfg.ID, SetFile: filepath.Join(cfg.Dir, setFile),
	}, nil
}

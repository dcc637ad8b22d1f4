// SPDX-License-Identifier: Apache-2.0

package ceremony

import "path/filepath"

// Adopt creates a CA set in dir, which must not exist or be empty, with one existing CA as its authority
// id, which signs from the beginning of its certificate:
//
//	ca.yaml                               the CA set
//	2026-a/chain.pem                      the chain
//	2026-a/key.pem, pass                  a copy of the key, encrypted with a new password
//
// The caller has checked that chain and key are a CA's, and belong together. A key outside of files is
// external, and is not copied. Modes and durability are those of Init. If Adopt fails, it leaves
// nothing behind.
func Adopt(dir, id string, existing Parent, external *ExternalKey) (*Result, error) {
	if err := checkEmpty(dir); err != nil {
		return nil, err
	}
	c := &ceremony{plan: Plan{head: "# The CA set of a CA that mayfly ca init has adopted. Paths are relative to this file.\n"}}
	planned := PlannedIntermediate{ID: id, PlannedCertificate: PlannedCertificate{Signer: external}}
	err := create(dir, nil, func() ([]file, error) {
		keys, block, err := keyFiles(id, existing.Signer, planned.PlannedCertificate, dir)
		c.addToSet(planned, block, existing.Chain[0])
		return append(append([]file{{id, chainFile, publicMode, chainPEM(existing.Chain...)}}, keys...), c.setFile()), err
	})
	if err != nil {
		return nil, err
	}
	return &Result{
		ChainFile: filepath.Join(dir, id, chainFile), Intermediate: existing.Chain[0],
		AuthorityID: id, SetFile: filepath.Join(dir, setFile),
	}, nil
}

// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// Parent is a CA that certifies intermediates.
type Parent struct {
	// Chain has its certificate first, then those above it up to the root.
	Chain  []*x509.Certificate
	Signer crypto.Signer
}

// AuthorityConfig describes a new authority for a CA set.
type AuthorityConfig struct {
	// Dir is the folder for chain.pem, key.pem and pass. It must not exist, or be empty.
	Dir     string
	Subject Subject
	// Algorithm is of its key, one of Algorithms(); "" for DefaultAlgorithm, or for the algorithm
	// of an existing key.
	Algorithm string
	// Password encrypts the key; empty to generate one. It is written beside the key.
	Password []byte
	// Signer is a key outside Dir's files; nil to generate one in Dir. It excludes Password.
	Signer *ExternalKey
	// Parent's Signer may be nil for Check.
	Parent Parent
	// NotBefore and NotAfter are as in IntermediateConfig.
	NotBefore, NotAfter time.Time
}

// AuthorityResult is what NewAuthority created. KeyFile and PasswordFile are "" if the key is
// an ExternalKey.
type AuthorityResult struct {
	ChainFile, KeyFile, PasswordFile string
	Intermediate                     *x509.Certificate
}

// Check reports every mistake that can be found without opening or generating a key.
func (cfg AuthorityConfig) Check() error {
	err := errors.Join(checkEmpty(cfg.Dir), cfg.Subject.check(), checkAlgorithm(cfg.Algorithm), checkKeySource(cfg.Signer, cfg.Algorithm, "password", cfg.Password))
	if err != nil {
		return err
	}
	public, err := publicOrStandIn(cfg.Signer)
	if err != nil {
		return err
	}
	return cfg.intermediate(public).rehearse()
}

func (cfg AuthorityConfig) intermediate(public crypto.PublicKey) IntermediateConfig {
	return IntermediateConfig{
		Subject: cfg.Subject, PublicKey: public, Parent: cfg.Parent.Chain[0], ParentSigner: cfg.Parent.Signer,
		NotBefore: cfg.NotBefore, NotAfter: cfg.NotAfter,
	}
}

// NewAuthority creates a key and an intermediate below Parent, in their own folder. If it
// fails, it leaves nothing behind except an ExternalKey that it generated, which the error
// names.
func NewAuthority(cfg AuthorityConfig) (result *AuthorityResult, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	defer func() { err = cfg.Signer.Stays(err) }()
	place, err := reserve(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("writing the authority to %s: %w", cfg.Dir, err)
	}
	defer func() { err = place.release(err) }()
	key, err := newKey(cfg.Signer, cfg.Algorithm)
	if err != nil {
		return nil, err
	}
	intermediate, err := Intermediate(cfg.intermediate(key.Public()))
	if err != nil {
		return nil, err
	}
	files, _, err := keyFiles("", key, cfg.Signer, cfg.Dir, cfg.Password)
	if err != nil {
		return nil, err
	}
	chain := ChainPEM(append([]*x509.Certificate{intermediate}, cfg.Parent.Chain...))
	if err := place.write(append(files, file{"", chainFile, publicMode, chain})); err != nil {
		return nil, fmt.Errorf("writing the authority to %s: %w", cfg.Dir, err)
	}
	in := func(name string) string { return filepath.Join(cfg.Dir, name) }
	result = &AuthorityResult{ChainFile: in(chainFile), Intermediate: intermediate}
	if cfg.Signer == nil {
		result.KeyFile, result.PasswordFile = in(keyFile), in(passwordFile)
	}
	return result, nil
}

// ChainPEM returns certificates as a PEM file.
func ChainPEM(certificates []*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, certificatePEM(c)...)
	}
	return out
}

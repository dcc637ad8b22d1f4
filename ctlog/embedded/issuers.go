// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// maxIssuers bounds the issuers of one log: clients with the submit token control their number.
const maxIssuers = 1024

// issuers keeps the CA certificates that entries refer to, in files named after their SHA-256
// (static-ct-api, section "Issuers"), and in memory.
type issuers struct {
	dir string

	mu    sync.Mutex
	known map[[sha256.Size]byte][]byte // under mu
}

func newIssuers(logDir string) *issuers {
	return &issuers{dir: filepath.Join(logDir, issuerDir), known: make(map[[sha256.Size]byte][]byte)}
}

func (s *issuers) path(fingerprint [sha256.Size]byte) string {
	return filepath.Join(s.dir, hex.EncodeToString(fingerprint[:]))
}

// put makes the certificates durable and returns their fingerprints. The log calls it before
// it adds the entry that refers to them.
func (s *issuers) put(chain [][]byte) (fingerprints [][sha256.Size]byte, err error) {
	for _, der := range chain {
		fingerprint := sha256.Sum256(der)
		if _, err = s.get(fingerprint); errors.Is(err, fs.ErrNotExist) {
			err = s.create(fingerprint, der)
		}
		if err != nil {
			return nil, fmt.Errorf("storing issuer: %w", err)
		}
		fingerprints = append(fingerprints, fingerprint)
	}
	return fingerprints, nil
}

func (s *issuers) create(fingerprint [sha256.Size]byte, der []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxIssuers {
		return fmt.Errorf("the log already has %d issuers, and accepts no more", maxIssuers)
	}
	err := files.WriteDurably(s.path(fingerprint), der, 0o644)
	if err == nil {
		s.known[fingerprint] = der
	}
	return err
}

// get returns a certificate; fs.ErrNotExist if there is none.
func (s *issuers) get(fingerprint [sha256.Size]byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if der := s.known[fingerprint]; der != nil {
		return der, nil
	}
	der, err := files.Read(s.path(fingerprint), maxCertificate)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(der) != fingerprint {
		return nil, fmt.Errorf("%w: %s/%x has not the hash of its name", errDamaged, issuerDir, fingerprint)
	}
	if len(s.known) < maxIssuers {
		s.known[fingerprint] = der
	}
	return der, nil
}

// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// markerFile marks a directory as a development world's.
const markerFile = ".mayfly-dev"

// format is the version of the directory's content.
const format = 1

// maxFile bounds the size of a file that the development world reads again.
const maxFile = 1 << 20

// marker is the content of markerFile.
type marker struct {
	Format int `json:"format"`
	// Host is where the world listens. Its Rekor log has this name, and verifiers require a log's name
	// to be the host of its URL.
	Host string `json:"host"`
	Note string `json:"note"`
}

const markerNote = "A development world of mayfly, with unprotected keys that nobody may trust. mayfly dev --dir carries it on; it may be deleted."

// claimDir makes an empty dir a development world's, or checks that it is one. It refuses any other
// directory. Keys of a production CA and of a development world must never be mistaken for each
// other, nor be in one directory.
func claimDir(dir, host string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking into the directory of the development world: %w; name another with --dir", err)
	}
	content, err := files.Read(filepath.Join(dir, markerFile), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		if len(entries) > 0 {
			return fmt.Errorf("%s holds %s, which may be of a real CA, and lacks the marker %s of a development world: name a new or empty directory with --dir", dir, entries[0].Name(), markerFile)
		}
		return writeMarker(dir, host)
	}
	if err != nil {
		return fmt.Errorf("reading the marker of the development world: %w", err)
	}
	var m marker
	if err := json.Unmarshal(content, &m); err != nil || m.Format < 1 {
		return fmt.Errorf("%s is unreadable, so %s may not be a development world: name a new directory with --dir", filepath.Join(dir, markerFile), dir)
	}
	if m.Format != format {
		return fmt.Errorf("%s was made by another version of mayfly (its format is %d, and this version's %d): name a new directory with --dir, or delete this one if nothing in it is needed", dir, m.Format, format)
	}
	if m.Host != host {
		return fmt.Errorf("%s was made for the host %q, and its Rekor log is named after it: listen there (--listen %s), or name another directory with --dir", dir, m.Host, net.JoinHostPort(m.Host, "5555"))
	}
	return nil
}

func writeMarker(dir, host string) error {
	content, err := json.Marshal(marker{format, host, markerNote})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, markerFile), append(content, '\n'), 0o600)
}

// loadOrMakeKey returns the key of type K in a file, PKCS#8 PEM. It creates the key if the file
// does not exist.
func loadOrMakeKey[K crypto.Signer](file string, generate func() (K, error)) (key K, err error) {
	text, err := files.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = generate(); err != nil {
			return key, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return key, err
		}
		return key, writePEM(file, "PRIVATE KEY", der)
	}
	if err != nil {
		return key, err
	}
	if der, err := pem.One(text, "PRIVATE KEY"); err == nil {
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if key, ok := parsed.(K); ok && err == nil {
			return key, nil
		}
	}
	return key, fmt.Errorf("%s is not the key that mayfly dev has written there: delete the directory of the development world and start again", file)
}

func newP256() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newRSA() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func writePEM(file, kind string, ders ...[]byte) error {
	var text []byte
	for _, der := range ders {
		text = append(text, pem.Encode(kind, der)...)
	}
	return os.WriteFile(file, text, 0o600)
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	text, err := files.Read(file, maxFile)
	if err != nil {
		return nil, err
	}
	certificates, err := pem.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return certificates, nil
}

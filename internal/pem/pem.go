// SPDX-License-Identifier: Apache-2.0

// Package pem reads the PEM files of operators. It refuses what encoding/pem would pass over in
// silence. Every package may import it. It does not read what clients send.
package pem

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// Block is a block of encoding/pem.
type Block = pem.Block

// Encode returns one block.
func Encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&Block{Type: kind, Bytes: der})
}

// marker finds the lines around a PEM block, also in lower case, behind other text, with fewer
// dashes, with the dashes of a word processor, or with a space after them. RFC 7468, section 2, has
// five hyphens and no space.
var marker = regexp.MustCompile(`[-‐-―−]{2}(?:(?i:BEGIN|END)|[\t\p{Zs}\p{Cf}]+(?:BEGIN|END)\b)`)

// Blocks returns the blocks of data in their order, and what follows the last one. Text around the
// blocks may explain them (RFC 7468, section 5.2). A BEGIN or END line that belongs to no block
// that can be decoded is an error, since encoding/pem would drop that block in silence.
func Blocks(data []byte) (blocks []*Block, rest []byte, err error) {
	if data, err = files.Text(data); err != nil {
		return nil, nil, err
	}
	data = bytes.ReplaceAll(data, []byte("\ufeff"), nil) // files with marks were joined
	rest = data
	for {
		first := marker.FindIndex(rest)
		if first == nil {
			return blocks, rest, nil
		}
		block, after := pem.Decode(rest)
		if block == nil || len(marker.FindAllIndex(rest[:len(rest)-len(after)], 3)) != 2 {
			line := 1 + bytes.Count(data[:len(data)-len(rest)+first[0]], []byte("\n"))
			return nil, nil, fmt.Errorf("the PEM block at line %d cannot be decoded; it is a line -----BEGIN TYPE-----, lines of base64 and a line -----END TYPE-----, each of which holds nothing more", line)
		}
		blocks, rest = append(blocks, block), after
	}
}

// One returns the content of the only block of data, which must be of one of the types.
func One(data []byte, types ...string) (der []byte, err error) {
	blocks, rest, err := Blocks(data)
	switch {
	case err != nil:
		return nil, err
	case len(blocks) == 0:
		return nil, fmt.Errorf("it holds no PEM; it must begin with -----BEGIN %s-----", types[0])
	case !slices.Contains(types, blocks[0].Type):
		return nil, fmt.Errorf("it holds a PEM block of type %.40q; it must hold one of type %s", blocks[0].Type, strings.Join(types, " or "))
	case len(blocks) > 1 || len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it holds more than one PEM block, or text behind it; it must hold one block")
	}
	return blocks[0].Bytes, nil
}

// Certificates returns the certificates of data in their order, at least one. A block of another
// type is an error.
func Certificates(data []byte) ([]*x509.Certificate, error) {
	blocks, _, err := Blocks(data)
	if err != nil {
		return nil, err
	}
	var certificates []*x509.Certificate
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a PEM block of type %.40q; it must hold certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", len(certificates)+1, err)
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, errors.New("it holds no PEM certificate")
	}
	return certificates, nil
}

// CertPool adds the certificates of data to pool.
func CertPool(pool *x509.CertPool, data []byte) error {
	certificates, err := Certificates(data)
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return err
}

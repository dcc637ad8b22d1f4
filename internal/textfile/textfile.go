// SPDX-License-Identifier: Apache-2.0

// Package textfile reads the text that operators keep in files: PEM, passwords and tokens. It
// drops byte order marks, and refuses what an ordinary PEM decoder would pass over in silence.
//
// Every package may import it. What clients send is not read by it.
package textfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
)

const byteOrderMark = "\xef\xbb\xbf"

var errUTF16 = errors.New("it is UTF-16 or UTF-32 text; save it as UTF-8 (in PowerShell: -Encoding utf8)")

// Plain returns data without a byte order mark at its beginning.
func Plain(data []byte) ([]byte, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errUTF16
	}
	if len(data) >= 4 && (data[0] == 0 && data[2] == 0 || data[1] == 0 && data[3] == 0) { // without a mark
		return nil, errUTF16
	}
	return bytes.TrimPrefix(data, []byte(byteOrderMark)), nil
}

// Line returns data without a byte order mark and without one line ending, which an editor or
// echo adds. It removes nothing more: a secret may end in white space.
func Line(data []byte) ([]byte, error) {
	text, err := Plain(data)
	if line, found := bytes.CutSuffix(text, []byte("\n")); found {
		text = bytes.TrimSuffix(line, []byte("\r"))
	}
	return text, err
}

// marker finds the lines around a PEM block, also in lower case, behind other text, with fewer
// dashes, with the dashes of a word processor, or with a space after them. RFC 7468, section 2, has
// five hyphens and no space.
var marker = regexp.MustCompile(`[-‐-―−]{2}(?:(?i:BEGIN|END)|[\t\p{Zs}\p{Cf}]+(?:BEGIN|END)\b)`)

// PEM returns the blocks of data in their order, and what follows the last one. Text around the
// blocks may explain them (RFC 7468, section 5.2). A BEGIN or END line that belongs to no block
// that can be decoded is an error, since encoding/pem would drop that block in silence.
func PEM(data []byte) (blocks []*pem.Block, rest []byte, err error) {
	if data, err = Plain(data); err != nil {
		return nil, nil, err
	}
	data = bytes.ReplaceAll(data, []byte(byteOrderMark), nil) // files with marks were joined
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

// CertPool adds the certificates of data, PEM, to pool. Blocks of another type are an error.
func CertPool(pool *x509.CertPool, data []byte) error {
	blocks, _, err := PEM(data)
	if err != nil {
		return err
	}
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("it holds a PEM block of type %.40q; it must hold certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parsing a certificate: %w", err)
		}
		pool.AddCert(c)
	}
	if len(blocks) == 0 {
		return errors.New("it holds no PEM certificate")
	}
	return nil
}

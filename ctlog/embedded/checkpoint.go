// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// algorithmTreeHead is the signature type of an RFC6962NoteSignature (static-ct-api, section
// "Checkpoints").
const algorithmTreeHead = 0x05

// maxCheckpoint bounds the size of a checkpoint; this log's have about 250 bytes.
const maxCheckpoint = 64 << 10

// treeHead is the state of a tree: its size and its root hash (RFC 6962, section 2.1).
type treeHead struct {
	size uint64
	root [32]byte
}

func (h treeHead) String() string {
	return fmt.Sprintf("size %d and root %s", h.size, base64.StdEncoding.EncodeToString(h.root[:]))
}

// emptyTree returns the head of a tree without entries: MTH({}) = SHA-256().
func emptyTree() treeHead { return treeHead{root: sha256.Sum256(nil)} }

// checkpoint is a signed tree head in its form as a note.
type checkpoint struct {
	origin    string
	head      treeHead
	timestamp uint64 // milliseconds
	signed    []byte // TreeHeadSignature, as a DigitallySigned
	raw       []byte
}

// noteKeyID is the key ID of the log's signature line.
//
//	key ID = SHA-256(key name || 0x0A || 0x05 || LogID)[:4]          static-ct-api
func noteKeyID(origin string, logID [32]byte) uint32 {
	h := sha256.New()
	h.Write([]byte(origin))
	h.Write([]byte{'\n', algorithmTreeHead})
	h.Write(logID[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// noteSignature is the body of the log's signature line, without the key ID.
//
//	struct {                                                         static-ct-api
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;
func noteSignature(timestamp uint64, signed []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, timestamp), signed...)
}

// parseCheckpointBody reads the signed text: exactly three lines, since the signature would
// not cover an extension line.
//
//	<origin>\n<decimal size>\n<base64 root>\n                        tlog-checkpoint
func parseCheckpointBody(text []byte) (origin string, h treeHead, err error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return "", treeHead{}, fmt.Errorf("a checkpoint has three lines, this has %d", len(lines)-1)
	}
	h.size, err = strconv.ParseUint(lines[1], 10, 64)
	if err != nil || strconv.FormatUint(h.size, 10) != lines[1] {
		return "", treeHead{}, fmt.Errorf("%.40q is no tree size", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(h.root) || len(lines[2]) != base64.StdEncoding.EncodedLen(len(root)) {
		return "", treeHead{}, fmt.Errorf("%.60q is no root hash", lines[2])
	}
	copy(h.root[:], root)
	return lines[0], h, nil
}

// parseCheckpoint reads a note and its signature line for origin and key ID. It does not
// verify the signature: see (*logKey).verifyTreeHead.
func parseCheckpoint(raw []byte, origin string, keyID uint32) (*checkpoint, error) {
	if len(raw) > maxCheckpoint {
		return nil, fmt.Errorf("it has %d bytes", len(raw))
	}
	split := bytes.LastIndex(raw, []byte("\n\n"))
	if split < 0 || !bytes.HasSuffix(raw, []byte("\n")) {
		return nil, errors.New("it is no signed note")
	}
	c := &checkpoint{raw: raw}
	var err error
	if c.origin, c.head, err = parseCheckpointBody(raw[:split+1]); err != nil {
		return nil, err
	}
	if c.origin != origin {
		return nil, fmt.Errorf("it is of the log %.100q, not %q", c.origin, origin)
	}
	for line := range strings.Lines(string(raw[split+2:])) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— "+origin+" ")
		if !ok {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(rest)
		if err != nil || len(signature) < 4+8+4 || binary.BigEndian.Uint32(signature) != keyID {
			continue
		}
		c.timestamp = binary.BigEndian.Uint64(signature[4:])
		c.signed = signature[12:]
		if c.timestamp > math.MaxInt64 {
			return nil, errors.New("its timestamp is out of range")
		}
		return c, nil
	}
	return nil, errors.New("it has no signature of this log's key")
}

// VerifyCheckpoint checks that raw is a checkpoint of the log with this key, for any origin.
func VerifyCheckpoint(raw []byte, publicKey *ctlog.PublicKey) error {
	parsed, err := x509.ParsePKIXPublicKey(publicKey.SPKI())
	public, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return fmt.Errorf("the key is a %T: %w", parsed, err)
	}
	key := &logKey{public: public, id: publicKey.LogID()}
	origin, _, _ := strings.Cut(string(raw[:min(len(raw), maxCheckpoint)]), "\n")
	c, err := parseCheckpoint(raw, origin, noteKeyID(origin, key.id))
	if err != nil {
		return err
	}
	if !key.verifyTreeHead(c.timestamp, c.head, c.signed) {
		return errors.New("its signature is not of this key")
	}
	return nil
}

// noteVerifier adapts the log's public key to golang.org/x/mod/sumdb/note.
type noteVerifier struct {
	origin string
	key    *logKey
}

// Name returns the log's origin.
func (v noteVerifier) Name() string { return v.origin }

// KeyHash returns the key ID.
func (v noteVerifier) KeyHash() uint32 { return noteKeyID(v.origin, v.key.id) }

// Verify reports whether signature, an RFC6962NoteSignature, is the log's over text.
func (v noteVerifier) Verify(text, signature []byte) bool {
	origin, head, err := parseCheckpointBody(text)
	if err != nil || origin != v.origin || len(signature) < 8 {
		return false
	}
	return v.key.verifyTreeHead(binary.BigEndian.Uint64(signature), head, signature[8:])
}

// noteSigner signs checkpoints for Tessera, which does not know the guard: every signature
// for Tessera passes through here.
type noteSigner struct {
	noteVerifier
	// admit is called first; noteSigner signs only if it returns nil.
	admit func(h treeHead) error
	// timestamp returns the time of the next tree head in milliseconds.
	timestamp func() uint64
}

// Sign returns the RFC6962NoteSignature of a checkpoint's text.
func (s noteSigner) Sign(text []byte) ([]byte, error) {
	origin, head, err := parseCheckpointBody(text)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	if origin != s.origin {
		return nil, fmt.Errorf("signing checkpoint: it is of the log %q", origin)
	}
	if err := s.admit(head); err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	timestamp := s.timestamp()
	signature, err := s.key.sign(treeHeadMessage(timestamp, head))
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	return noteSignature(timestamp, digitallySigned(signature)), nil
}

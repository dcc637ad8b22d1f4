// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/formats/log"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// maxCheckpoint bounds the size of a checkpoint; this log's have about 250 bytes.
const maxCheckpoint = 64 << 10

// treeHead is the state of a tree: its size and its root hash (RFC 6962, section 2.1).
type treeHead struct {
	size uint64
	root [hashSize]byte
}

func (h treeHead) String() string {
	return fmt.Sprintf("size %d and root %s", h.size, base64.StdEncoding.EncodeToString(h.root[:]))
}

// emptyTree returns the head of a tree without entries: MTH({}) = SHA-256().
func emptyTree() treeHead { return treeHead{root: sha256.Sum256(nil)} }

// signed returns the tree head of RFC 6962, section 3.5.
func (h treeHead) signed(timestamp uint64, signature ct.DigitallySigned) ct.SignedTreeHead {
	return ct.SignedTreeHead{Version: ct.V1, TreeSize: h.size, Timestamp: timestamp, SHA256RootHash: h.root, TreeHeadSignature: signature}
}

// text returns the signed text of a checkpoint (C2SP tlog-checkpoint).
func (h treeHead) text(origin string) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, h.size, base64.StdEncoding.EncodeToString(h.root[:]))
}

// parseText reads what text returns, and nothing else: the signature would not cover another
// line.
func parseText(text []byte, origin string) (h treeHead, err error) {
	if lines := strings.Split(string(text), "\n"); len(lines) == 4 {
		h.size, _ = strconv.ParseUint(lines[1], 10, 64)
		root, _ := base64.StdEncoding.DecodeString(lines[2])
		copy(h.root[:], root)
	}
	if h.text(origin) != string(text) {
		return treeHead{}, fmt.Errorf("%.200q is no checkpoint of the log %s", text, origin)
	}
	return h, nil
}

// checkpoint is a verified tree head, and its form as a note.
type checkpoint struct {
	head      treeHead
	timestamp uint64 // milliseconds
	signed    []byte // TreeHeadSignature, as a DigitallySigned
	raw       []byte
}

func (c *checkpoint) time() time.Time { return time.UnixMilli(int64(c.timestamp)).UTC() }

// parseCheckpoint reads a checkpoint that the log has signed. v verifies it.
func parseCheckpoint(raw []byte, v noteVerifier) (*checkpoint, error) {
	if len(raw) > maxCheckpoint {
		return nil, fmt.Errorf("a checkpoint of %d bytes", len(raw))
	}
	parsed, _, note, err := log.ParseCheckpoint(raw, v.origin, v)
	if err != nil {
		return nil, err
	}
	signature, err := base64.StdEncoding.DecodeString(note.Sigs[0].Base64)
	if err != nil {
		return nil, err
	}
	return &checkpoint{
		head: treeHead{parsed.Size, [hashSize]byte(parsed.Hash)}, timestamp: binary.BigEndian.Uint64(signature[4:]),
		signed: signature[4+8:], raw: raw,
	}, nil
}

// VerifyCheckpoint checks that raw is a checkpoint of the log with this key, for any origin.
func VerifyCheckpoint(raw []byte, key *ctlog.PublicKey) error {
	origin, _, _ := strings.Cut(string(raw[:min(len(raw), maxCheckpoint)]), "\n")
	_, err := parseCheckpoint(raw, noteVerifier{origin, key})
	return err
}

// noteVerifier is a log's key as the verifier of a note (golang.org/x/mod/sumdb/note).
type noteVerifier struct {
	origin string
	key    *ctlog.PublicKey
}

// Name returns the log's origin.
func (v noteVerifier) Name() string { return v.origin }

// KeyHash returns the key ID of the log's signature line (static-ct-api):
//
//	key ID = SHA-256(key name || 0x0A || 0x05 || LogID)[:4]
func (v noteVerifier) KeyHash() uint32 {
	id := v.key.LogID()
	hash := sha256.Sum256(append([]byte(v.origin+"\n\x05"), id[:]...))
	return binary.BigEndian.Uint32(hash[:])
}

// Verify reports whether signature is the log's over text (static-ct-api).
//
//	struct {
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;
func (v noteVerifier) Verify(text, signature []byte) bool {
	head, err := parseText(text, v.origin)
	if err != nil || len(signature) < 8 {
		return false
	}
	var signed ct.DigitallySigned
	rest, err := tls.Unmarshal(signature[8:], &signed)
	return err == nil && len(rest) == 0 && v.key.VerifyTreeHead(head.signed(binary.BigEndian.Uint64(signature), signed)) == nil
}

// noteSigner signs checkpoints for Tessera, which does not know the guard: every signature
// for Tessera passes through here.
type noteSigner struct {
	noteVerifier
	log *Log
}

// Sign returns the RFC6962NoteSignature of a checkpoint's text, if the log admits it.
func (s noteSigner) Sign(text []byte) (signature []byte, err error) {
	head, err := parseText(text, s.origin)
	var timestamp uint64
	if err == nil {
		timestamp, err = s.log.admitCheckpoint(head)
	}
	var message []byte
	if err == nil {
		message, err = ct.SerializeSTHSignatureInput(head.signed(timestamp, ct.DigitallySigned{}))
	}
	if err == nil {
		signature, err = s.log.key.sign(message)
	}
	if err == nil {
		signature, err = digitallySigned(signature)
	}
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	return append(binary.BigEndian.AppendUint64(nil, timestamp), signature...), nil
}

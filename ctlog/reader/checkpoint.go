// SPDX-License-Identifier: Apache-2.0

package reader

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

// MaxCheckpoint bounds the size of a checkpoint; an embedded log's have about 250 bytes.
const MaxCheckpoint = 64 << 10

// Head is the state of a tree: its size and its root hash (RFC 6962, section 2.1).
type Head struct {
	Size uint64
	Root [sha256.Size]byte
}

// String returns size and root for a person.
func (h Head) String() string {
	return fmt.Sprintf("size %d and root %s", h.Size, base64.StdEncoding.EncodeToString(h.Root[:]))
}

// EmptyTree returns the head of a tree without entries: MTH({}) = SHA-256().
func EmptyTree() Head { return Head{Root: sha256.Sum256(nil)} }

// Signed returns the tree head of RFC 6962, section 3.5.
func (h Head) Signed(timestamp uint64, signature ct.DigitallySigned) ct.SignedTreeHead {
	return ct.SignedTreeHead{Version: ct.V1, TreeSize: h.Size, Timestamp: timestamp, SHA256RootHash: h.Root, TreeHeadSignature: signature}
}

// Text returns the signed text of a checkpoint (C2SP tlog-checkpoint).
func (h Head) Text(origin string) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, h.Size, base64.StdEncoding.EncodeToString(h.Root[:]))
}

// ParseText reads what Text returns, and nothing else: the signature would not cover another
// line.
func ParseText(text []byte, origin string) (h Head, err error) {
	if lines := strings.Split(string(text), "\n"); len(lines) == 4 {
		h.Size, _ = strconv.ParseUint(lines[1], 10, 64)
		root, _ := base64.StdEncoding.DecodeString(lines[2])
		copy(h.Root[:], root)
	}
	if h.Text(origin) != string(text) {
		return Head{}, fmt.Errorf("%.200q is no checkpoint of the log %s", text, origin)
	}
	return h, nil
}

// Checkpoint is a verified tree head, and its form as a note.
type Checkpoint struct {
	Head      Head
	Timestamp uint64 // milliseconds
	Signed    []byte // TreeHeadSignature, as a DigitallySigned
	Raw       []byte
}

// Time returns when the log signed the checkpoint.
func (c *Checkpoint) Time() time.Time { return ctlog.Time(c.Timestamp) }

// ParseCheckpoint reads a checkpoint that the log has signed. v verifies it.
func ParseCheckpoint(raw []byte, v NoteVerifier) (*Checkpoint, error) {
	if len(raw) > MaxCheckpoint {
		return nil, fmt.Errorf("a checkpoint of %d bytes", len(raw))
	}
	parsed, _, note, err := log.ParseCheckpoint(raw, v.Origin, v)
	if err != nil {
		return nil, err
	}
	signature, err := base64.StdEncoding.DecodeString(note.Sigs[0].Base64)
	if err != nil {
		return nil, err
	}
	return &Checkpoint{
		Head: Head{parsed.Size, [sha256.Size]byte(parsed.Hash)}, Timestamp: binary.BigEndian.Uint64(signature[4:]),
		Signed: signature[4+8:], Raw: raw,
	}, nil
}

// ReadCheckpoint reads a checkpoint of the log with this key, for any origin. One that another key has
// signed is an *InvalidError. Without a key it returns the head alone, and verifies nothing.
func ReadCheckpoint(raw []byte, key *ctlog.PublicKey) (*Checkpoint, error) {
	text, _, _ := strings.Cut(string(raw[:min(len(raw), MaxCheckpoint)]), "\n\n")
	origin, _, _ := strings.Cut(text, "\n")
	head, err := ParseText([]byte(text+"\n"), origin)
	if err != nil || key == nil {
		return &Checkpoint{Head: head, Raw: raw}, err
	}
	checkpoint, err := ParseCheckpoint(raw, NoteVerifier{origin, key})
	if err != nil {
		return nil, &ctlog.InvalidError{Err: err}
	}
	return checkpoint, nil
}

// NoteVerifier is a log's key as the verifier of a note (golang.org/x/mod/sumdb/note).
type NoteVerifier struct {
	Origin string
	Key    *ctlog.PublicKey
}

// Name returns the log's origin.
func (v NoteVerifier) Name() string { return v.Origin }

// KeyHash returns the key ID of the log's signature line (static-ct-api):
//
//	key ID = SHA-256(key name || 0x0A || 0x05 || LogID)[:4]
func (v NoteVerifier) KeyHash() uint32 {
	id := v.Key.LogID()
	hash := sha256.Sum256(append([]byte(v.Origin+"\n\x05"), id[:]...))
	return binary.BigEndian.Uint32(hash[:])
}

// Verify reports whether signature is the log's over text (static-ct-api).
//
//	struct {
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;
func (v NoteVerifier) Verify(text, signature []byte) bool {
	head, err := ParseText(text, v.Origin)
	if err != nil || len(signature) < 8 {
		return false
	}
	var signed ct.DigitallySigned
	rest, err := tls.Unmarshal(signature[8:], &signed)
	return err == nil && len(rest) == 0 && v.Key.VerifyTreeHead(head.Signed(binary.BigEndian.Uint64(signature), signed)) == nil
}

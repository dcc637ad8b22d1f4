// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"encoding/binary"
	"fmt"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// noteSigner signs checkpoints for Tessera, which does not know the guard: every signature
// for Tessera passes through here.
type noteSigner struct {
	reader.NoteVerifier
	log *Log
}

// Sign returns the RFC6962NoteSignature of a checkpoint's text, if the log admits it.
func (s noteSigner) Sign(text []byte) (signature []byte, err error) {
	head, err := reader.ParseText(text, s.Origin)
	var timestamp uint64
	if err == nil {
		timestamp, err = s.log.admitCheckpoint(head)
	}
	var message []byte
	if err == nil {
		message, err = ct.SerializeSTHSignatureInput(head.Signed(timestamp, ct.DigitallySigned{}))
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

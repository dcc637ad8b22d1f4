// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
	bundlev1 "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustrootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	// maxBundle bounds a file: a bundle may hold an attestation with thousands of components.
	maxBundle = 32 << 20
	// maxTimestamp bounds a timestamp, which has some KiB: its parser recurses as deep as it is nested.
	maxTimestamp = 64 << 10
)

// finding is a signing certificate with the CA certificates behind it, a signature, or a trusted root.
// Its JSON keys, and those of what it holds, are stable.
type finding struct {
	File      string            `json:"file,omitempty"`
	*report                     // of the signing certificate, if there is one
	Chain     []certificateOfCA `json:"chain,omitempty"`
	Signature *signature        `json:"signature,omitempty"`
	Logs      []trustedLog      `json:"logs,omitempty"`
	Verified  bool              `json:"verified"` // never: a program may ask
	Error     string            `json:"error,omitempty"`
}

// signature is what was signed, and who else has seen that.
type signature struct {
	Format        string      `json:"format"`
	Subjects      []string    `json:"subjects,omitempty"` // the digests of what was signed: algorithm:hexadecimal
	PayloadType   string      `json:"payloadType,omitempty"`
	PredicateType string      `json:"predicateType,omitempty"`
	PublicKeyHint string      `json:"publicKeyHint,omitempty"`
	Timestamps    []time.Time `json:"timestamps,omitempty"`
	LogEntries    []logEntry  `json:"logEntries,omitempty"`
}

type logEntry struct {
	LogID          string    `json:"logID"`
	Index          int64     `json:"index"`
	IntegratedTime time.Time `json:"integratedTime,omitzero"` // Rekor v2 has none
}

// trustedLog is a log in a trusted root.
type trustedLog struct {
	URL string `json:"url"`
	ID  string `json:"logID"`
}

// inspectFile returns what is in a file or directory, also beside an error, and whether that is a list.
func inspectFile(stdin io.Reader, name string) (found []finding, list bool, err error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		found, err = inspectLayout(name)
		return found, true, err
	}
	data, err := readUpTo(maxBundle, stdin, name)
	if err != nil {
		return nil, false, err
	}
	if found, err = inspectData(data); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return found, len(found) > 1, err
}

// inspectData reads certificates, or one or more JSON objects.
func inspectData(data []byte) (found []finding, err error) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		certificates, err := certificatesIn(data)
		if err != nil {
			return nil, err
		}
		return inspectChain(certificates)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var document json.RawMessage
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return found, fmt.Errorf("reading JSON: %w", err)
		}
		f, err := inspectJSON(document)
		if err != nil {
			return found, err
		}
		found = append(found, *f)
	}
}

// bundleType is how the media type of a sigstore bundle begins.
const bundleType = "application/vnd.dev.sigstore.bundle"

func inspectJSON(document []byte) (*finding, error) {
	var kind struct {
		MediaType, Base64Signature, Cert             string
		VerificationMaterial, CertificateAuthorities json.RawMessage
		RekorBundle                                  *rekorBundle
	}
	err := json.Unmarshal(document, &kind)
	switch {
	case strings.HasPrefix(kind.MediaType, bundleType) || kind.VerificationMaterial != nil:
		return inspectBundle(document)
	case kind.CertificateAuthorities != nil:
		return inspectTrustedRoot(document)
	case kind.Base64Signature == "":
		return nil, errors.New("it is JSON of another kind; expected " + readable)
	case err != nil:
		return nil, fmt.Errorf("reading the bundle of cosign 2: %w", err)
	}
	return inspectOld("bundle of cosign 2", kind.Cert, kind.RekorBundle)
}

// certificatesIn reads PEM, base64 of PEM as cosign 2 writes it, or DER.
func certificatesIn(data []byte) ([]*x509.Certificate, error) {
	if decoded, err := base64.StdEncoding.DecodeString(string(data)); err == nil && len(decoded) > 0 {
		data = decoded
	}
	if bytes.HasPrefix(data, []byte{0x30}) { // SEQUENCE
		return x509.ParseCertificates(data)
	}
	blocks, _, err := pem.Blocks(data)
	if err != nil {
		return nil, err
	}
	blocks = slices.DeleteFunc(blocks, func(b *pem.Block) bool { return b.Type != "CERTIFICATE" })
	if len(blocks) == 0 {
		return nil, errors.New("no PEM certificate found, nor anything else that is known; expected " + readable)
	}
	var ders [][]byte
	for _, block := range blocks {
		ders = append(ders, block.Bytes)
	}
	return x509.ParseCertificates(slices.Concat(ders...))
}

// inspectChain returns a finding for each leaf, with the CA certificates behind it.
func inspectChain(certificates []*x509.Certificate) (found []finding, err error) {
	for _, c := range certificates {
		if !c.IsCA {
			r, err := inspect(c)
			if err != nil {
				return found, err
			}
			found = append(found, finding{report: r})
			continue
		}
		if len(found) == 0 {
			found = append(found, finding{})
		}
		last := &found[len(found)-1]
		last.Chain = append(last.Chain, inShort(c))
	}
	return found, nil
}

func inShort(c *x509.Certificate) certificateOfCA {
	return certificateOfCA{c.Subject.String(), c.NotBefore.UTC(), c.NotAfter.UTC(), describeKey(c.PublicKey), fmt.Sprintf("%x", sha256.Sum256(c.Raw))}
}

// with returns the finding of a signature by the first of certificates, if there are any.
func (s *signature) with(certificates []*x509.Certificate) (*finding, error) {
	found, err := inspectChain(certificates)
	if err == nil && len(found) > 1 {
		err = fmt.Errorf("it holds %d signing certificates; one is expected", len(found))
	}
	if err != nil {
		return nil, err
	}
	found = append(found, finding{})
	found[0].Signature = s
	return &found[0], nil
}

// unmarshal reads the JSON form of a message of protobuf-specs.
func unmarshal(document []byte, what string, message proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(document, message); err != nil {
		return fmt.Errorf("reading the %s: %w", what, err)
	}
	return nil
}

func parseRaw(raw []*common.X509Certificate) ([]*x509.Certificate, error) {
	var ders []byte
	for _, c := range raw {
		ders = append(ders, c.GetRawBytes()...)
	}
	return x509.ParseCertificates(ders)
}

// inspectBundle reads a sigstore bundle, v0.1 to v0.3.
func inspectBundle(document []byte) (*finding, error) {
	var b bundlev1.Bundle
	if err := unmarshal(document, "sigstore bundle", &b); err != nil {
		return nil, err
	}
	material := b.GetVerificationMaterial()
	s := &signature{Format: b.GetMediaType(), PublicKeyHint: material.GetPublicKey().GetHint()}
	if envelope := b.GetDsseEnvelope(); envelope != nil {
		s.addStatement(envelope.GetPayloadType(), envelope.GetPayload())
	} else if digest := b.GetMessageSignature().GetMessageDigest(); digest != nil {
		algorithm := strings.ToLower(strings.Replace(digest.GetAlgorithm().String(), "SHA2_", "SHA", 1))
		s.Subjects = []string{algorithm + ":" + hex.EncodeToString(digest.GetDigest())}
	}
	for i, signed := range material.GetTimestampVerificationData().GetRfc3161Timestamps() {
		raw := signed.GetSignedTimestamp()
		if len(raw) > maxTimestamp {
			return nil, fmt.Errorf("timestamp %d has %d bytes; at most %d are accepted", i+1, len(raw), maxTimestamp)
		}
		stamp, err := timestamp.ParseResponse(raw)
		if err != nil {
			return nil, fmt.Errorf("reading timestamp %d: %w", i+1, err)
		}
		s.Timestamps = append(s.Timestamps, stamp.Time.UTC())
	}
	for _, entry := range material.GetTlogEntries() {
		s.addEntry(hex.EncodeToString(entry.GetLogId().GetKeyId()), entry.GetLogIndex(), entry.GetIntegratedTime())
	}
	certificates, err := parseRaw(append(material.GetX509CertificateChain().GetCertificates(), material.GetCertificate()))
	if err != nil {
		return nil, err
	}
	return s.with(certificates)
}

func (s *signature) addEntry(logID string, index, seconds int64) {
	entry := logEntry{LogID: logID, Index: index}
	if seconds != 0 {
		entry.IntegratedTime = time.Unix(seconds, 0).UTC()
	}
	s.LogEntries = append(s.LogEntries, entry)
}

// addStatement adds the payload of a DSSE envelope, which usually is an in-toto statement.
func (s *signature) addStatement(payloadType string, payload []byte) {
	var statement struct {
		PredicateType string
		Subject       []struct{ Digest map[string]string }
	}
	_ = json.Unmarshal(payload, &statement) // another payload has no subject
	s.PayloadType, s.PredicateType = payloadType, statement.PredicateType
	for _, subject := range statement.Subject {
		for _, algorithm := range slices.Sorted(maps.Keys(subject.Digest)) {
			s.Subjects = append(s.Subjects, algorithm+":"+subject.Digest[algorithm])
		}
	}
}

// rekorBundle is a log entry in the form of cosign 2.
type rekorBundle struct {
	Payload struct {
		IntegratedTime, LogIndex int64
		LogID                    string
	}
}

func inspectOld(format, certificate string, entry *rekorBundle) (f *finding, err error) {
	s := &signature{Format: format}
	if entry != nil {
		s.addEntry(entry.Payload.LogID, entry.Payload.LogIndex, entry.Payload.IntegratedTime)
	}
	var certificates []*x509.Certificate
	if certificate != "" {
		if certificates, err = certificatesIn([]byte(certificate)); err != nil {
			return nil, err
		}
	}
	return s.with(certificates)
}

func inspectTrustedRoot(document []byte) (*finding, error) {
	var root trustrootv1.TrustedRoot
	if err := unmarshal(document, "trusted root", &root); err != nil {
		return nil, err
	}
	f := &finding{}
	for _, authority := range slices.Concat(root.GetCertificateAuthorities(), root.GetTimestampAuthorities()) {
		certificates, err := parseRaw(authority.GetCertChain().GetCertificates())
		if err != nil {
			return nil, fmt.Errorf("the authority %s: %w", authority.GetUri(), err)
		}
		for _, c := range certificates {
			f.Chain = append(f.Chain, inShort(c))
		}
	}
	for _, log := range slices.Concat(root.GetCtlogs(), root.GetTlogs()) {
		f.Logs = append(f.Logs, trustedLog{log.GetBaseUrl(), hex.EncodeToString(log.GetLogId().GetKeyId())})
	}
	return f, nil
}

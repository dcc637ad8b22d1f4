// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/digitorus/timestamp"
	bundlev1 "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	// maxBundle bounds a file: a bundle may hold an attestation with thousands of components.
	maxBundle = 32 << 20
	// maxLayout bounds what is read of a layout altogether, also where a blob is named again and again.
	maxLayout = 256 << 20
	// maxTimestamp bounds a timestamp, which has some KiB: its parser recurses as deep as it is nested.
	maxTimestamp = 64 << 10
	// bundleType is how the media type of a sigstore bundle begins.
	bundleType = "application/vnd.dev.sigstore.bundle"
	// The annotations in which cosign 2 keeps a certificate, its chain and the log entry.
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	bundleAnnotation      = "dev.sigstore.cosign/bundle"
	// readable is what inspect reads.
	readable = "PEM or DER certificates, sigstore bundles, a bundle of cosign 2, or an OCI image layout with signatures"
)

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

func inspectJSON(document []byte) (*finding, error) {
	var kind struct {
		MediaType, Base64Signature, Cert string
		VerificationMaterial             json.RawMessage
		RekorBundle                      *rekorBundle
	}
	err := json.Unmarshal(document, &kind)
	switch {
	case strings.HasPrefix(kind.MediaType, bundleType) || kind.VerificationMaterial != nil:
		return inspectBundle(document)
	case kind.Base64Signature == "":
		return nil, errors.New("it is JSON of another kind; expected " + readable)
	case err != nil:
		return nil, fmt.Errorf("reading the bundle of cosign 2: %w", err)
	}
	return inspectCosign2("bundle of cosign 2", kind.Cert, kind.RekorBundle)
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
	other := "no PEM certificate found, nor anything else that is known"
	if isToken(string(data)) {
		other = "it is an ID token, which mayfly explain judges"
	}
	var ders []byte
	for _, block := range blocks {
		other = fmt.Sprintf("it is PEM of type %q", block.Type)
		if block.Type == "CERTIFICATE" {
			ders = append(ders, block.Bytes...)
		}
	}
	if len(ders) == 0 {
		return nil, errors.New(other + "; expected " + readable)
	}
	return x509.ParseCertificates(ders)
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
		last.Chain = append(last.Chain, certificateOfCA{c.Subject.String(), factsOf(c)})
	}
	return found, nil
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

// inspectBundle reads a sigstore bundle, v0.1 to v0.3.
func inspectBundle(document []byte) (*finding, error) {
	var b bundlev1.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(document, &b); err != nil {
		return nil, fmt.Errorf("reading the sigstore bundle: %w", err)
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
	var ders []byte
	for _, c := range append(material.GetX509CertificateChain().GetCertificates(), material.GetCertificate()) {
		ders = append(ders, c.GetRawBytes()...)
	}
	certificates, err := x509.ParseCertificates(ders)
	if err != nil {
		return nil, err
	}
	return s.with(certificates)
}

func (s *signature) addEntry(logID string, index, seconds int64) {
	entry := logEntry{LogID: logID, Index: index}
	if seconds > 0 {
		entry.IntegratedTime = ctlog.Time(1000 * uint64(min(seconds, 1<<50)))
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

func inspectCosign2(format, certificate string, entry *rekorBundle) (*finding, error) {
	s := &signature{Format: format}
	if entry != nil {
		s.addEntry(entry.Payload.LogID, entry.Payload.LogIndex, entry.Payload.IntegratedTime)
	}
	if certificate == "" {
		return s.with(nil)
	}
	certificates, err := certificatesIn([]byte(certificate))
	if err != nil {
		return nil, err
	}
	return s.with(certificates)
}

// layout is an OCI image layout. Everything is read below its root.
type layout struct {
	root  *os.Root
	read  int // bytes
	found []finding
	errs  []error
}

// inspectLayout returns the signatures in a directory, also beside an error: sigstore bundles, and what
// cosign 2 attaches to images. It looks at all blobs, since cosign 3 saves signatures without a reference
// from index.json.
func inspectLayout(dir string) ([]finding, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	blobs, err := fs.ReadDir(root.FS(), "blobs/sha256")
	if err != nil {
		return nil, fmt.Errorf("%s is a folder, and no OCI image layout: %v", dir, err)
	}
	l := &layout{root: root}
	for _, blob := range blobs {
		if digest := "sha256:" + blob.Name(); digestForm.MatchString(digest) && l.read <= maxLayout {
			l.inspect(digest)
		}
	}
	if len(l.found)+len(l.errs) == 0 {
		return nil, fmt.Errorf("%s: none of its %d blobs is a signature; expected a sigstore bundle, or a manifest with a layer that has the annotation %s",
			dir, len(blobs), certificateAnnotation)
	}
	return l.found, errors.Join(l.errs...)
}

// inspect adds the signature of a sigstore bundle, or those of cosign 2 in a manifest; none for any other
// blob.
func (l *layout) inspect(digest string) {
	text, err := l.blob(digest)
	var content struct {
		MediaType string
		Layers    []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	switch {
	case err != nil:
		l.add(digest, nil, err)
	case json.Unmarshal(text, &content) != nil:
	case strings.HasPrefix(content.MediaType, bundleType):
		f, err := inspectBundle(text)
		l.add(digest, f, err)
	default:
		for _, layer := range content.Layers {
			if layer.Annotations[certificateAnnotation] != "" {
				f, err := l.cosign2(layer.Digest, layer.Annotations)
				l.add(layer.Digest, f, err)
			}
		}
	}
}

func (l *layout) add(digest string, f *finding, err error) {
	if err != nil { // a fault of the layout, so no error of the system is wrapped
		l.errs = append(l.errs, fmt.Errorf("%s: the blob %s: %v", l.root.Name(), digest, err))
		return
	}
	l.found = append(l.found, *f)
}

var digestForm = regexp.MustCompile("^sha256:[0-9a-f]{64}$")

// blob reads JSON, which must have its digest. It returns nothing for a blob that is no JSON object, such
// as a layer of an image, or too large for a signature.
func (l *layout) blob(digest string) ([]byte, error) {
	if !digestForm.MatchString(digest) {
		return nil, errors.New("its digest is not sha256: and 64 hexadecimal digits")
	}
	f, err := l.root.OpenFile("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	in := bufio.NewReader(f)
	if first, err := in.Peek(1); err != nil || first[0] != '{' || info.Size() > maxBundle {
		return nil, nil
	}
	data, err := files.ReadAll(in, maxBundle)
	if l.read += len(data); err == nil && l.read > maxLayout {
		err = fmt.Errorf("more than %d bytes of manifests and signatures", maxLayout)
	}
	if actual := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); err == nil && actual != digest {
		err = fmt.Errorf("it was altered: its digest is %s", actual)
	}
	return data, err
}

// cosign2 reads the signature in a layer with the annotations of cosign 2.
func (l *layout) cosign2(digest string, annotations map[string]string) (*finding, error) {
	payload, err := l.blob(digest)
	if err != nil {
		return nil, err
	}
	var entry *rekorBundle
	if text := annotations[bundleAnnotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			return nil, fmt.Errorf("reading the annotation %s: %w", bundleAnnotation, err)
		}
	}
	f, err := inspectCosign2("image signature of cosign 2", annotations[certificateAnnotation]+"\n"+annotations[chainAnnotation], entry)
	if err != nil {
		return nil, err
	}
	var content struct { // simple signing, or a DSSE envelope
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
		PayloadType string
		Payload     []byte
	}
	if err := json.Unmarshal(payload, &content); err != nil {
		return nil, fmt.Errorf("reading what was signed: %w", err)
	}
	f.Signature.addStatement(content.PayloadType, content.Payload)
	if image := content.Critical.Image.Digest; image != "" {
		f.Signature.Subjects = []string{image}
	}
	return f, nil
}

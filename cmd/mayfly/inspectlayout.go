// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	maxManifest = 4 << 20
	// maxLayout bounds what is read of a layout altogether, also where a blob is named again and again.
	maxLayout = 256 << 20
)

// layout is an OCI image layout. Everything is read below its root.
type layout struct {
	root  *os.Root
	read  int             // bytes
	seen  map[string]bool // manifests, by digest
	found []finding
	errs  []error
}

// manifest is an image index or an image manifest.
type manifest struct {
	Manifests, Layers []struct {
		MediaType, Digest string
		Annotations       map[string]string
	}
}

// inspectLayout returns the signatures in a directory, also beside an error: sigstore bundles, and what
// cosign 2 attaches to images.
func inspectLayout(dir string) ([]finding, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	l := &layout{root: root, seen: make(map[string]bool)}
	index, err := l.file("index.json", maxManifest)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout: reading index.json: %v", dir, err)
	}
	l.walk(index)
	if len(l.found) == 0 && len(l.errs) == 0 {
		l.errs = []error{fmt.Errorf("it has %d manifests and no signature; expected a layer that is a sigstore bundle or has the annotation %s", len(l.seen), certificateAnnotation)}
	}
	for i, err := range l.errs { // a missing part is a fault of the layout, so no error of the system is wrapped
		l.errs[i] = fmt.Errorf("%s: %v", dir, err)
	}
	return l.found, errors.Join(l.errs...)
}

func (l *layout) file(name string, limit int64) ([]byte, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	data, err := files.ReadAll(f, limit)
	if l.read += len(data); err == nil && l.read > maxLayout {
		err = fmt.Errorf("more than %d bytes were read", maxLayout)
	}
	return data, err
}

var digestForm = regexp.MustCompile("^sha256:[0-9a-f]{64}$")

// blob reads a blob, which must have its digest.
func (l *layout) blob(digest string, limit int64) ([]byte, error) {
	if !digestForm.MatchString(digest) {
		return nil, fmt.Errorf("the digest %.80q is not sha256: and 64 hexadecimal digits", digest)
	}
	data, err := l.file("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", digest, err)
	}
	if actual := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); actual != digest {
		return nil, fmt.Errorf("the blob %s was altered: its digest is %s", digest, actual)
	}
	return data, nil
}

// walk reads an index or a manifest, and all below it.
func (l *layout) walk(document []byte) {
	var m manifest
	if err := json.Unmarshal(document, &m); err != nil {
		l.errs = append(l.errs, fmt.Errorf("reading a manifest: %w", err))
	}
	for _, layer := range m.Layers {
		f, err := l.signature(layer.MediaType, layer.Digest, layer.Annotations)
		if err != nil {
			l.errs = append(l.errs, fmt.Errorf("the signature %s: %w", layer.Digest, err))
		} else if f != nil {
			l.found = append(l.found, *f)
		}
	}
	for _, inner := range m.Manifests {
		if l.seen[inner.Digest] || l.read > maxLayout {
			continue
		}
		l.seen[inner.Digest] = true
		switch text, err := l.blob(inner.Digest, maxManifest); {
		case err == nil:
			l.walk(text)
		case !errors.Is(err, fs.ErrNotExist): // a copy may lack platforms
			l.errs = append(l.errs, err)
		}
	}
}

// The annotations in which cosign 2 keeps a certificate, its chain and the log entry.
const (
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	bundleAnnotation      = "dev.sigstore.cosign/bundle"
)

// signature reads a layer; it returns nil for one that is no signature.
func (l *layout) signature(mediaType, digest string, annotations map[string]string) (*finding, error) {
	isBundle, certificate := strings.HasPrefix(mediaType, bundleType), annotations[certificateAnnotation]
	if !isBundle && certificate == "" {
		return nil, nil
	}
	payload, err := l.blob(digest, maxBundle)
	if err != nil {
		return nil, err
	}
	if isBundle {
		return inspectBundle(payload)
	}
	var entry *rekorBundle
	if text := annotations[bundleAnnotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			return nil, fmt.Errorf("reading the annotation %s: %w", bundleAnnotation, err)
		}
	}
	f, err := inspectOld("image signature of cosign 2", certificate+"\n"+annotations[chainAnnotation], entry)
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

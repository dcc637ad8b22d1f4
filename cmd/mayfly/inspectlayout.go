// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
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
	root *os.Root
	read int // bytes
}

// manifest is an image manifest, without what is of no interest here.
type manifest struct {
	Layers []struct {
		MediaType, Digest string
		Annotations       map[string]string
	}
}

// inspectLayout returns the signatures in a directory, also beside an error: sigstore bundles, and what
// cosign 2 attaches to images. It looks at all blobs, since cosign 3 saves the manifests of signatures
// without a reference from index.json.
func inspectLayout(dir string) (found []finding, err error) {
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
	var errs []error
	for _, blob := range blobs {
		digest := "sha256:" + blob.Name()
		if !digestForm.MatchString(digest) || l.read > maxLayout {
			continue
		}
		inManifest, err := l.signatures(digest)
		found = append(found, inManifest...)
		if err != nil { // a fault of the layout, so no error of the system is wrapped
			errs = append(errs, fmt.Errorf("%s: %v", dir, err))
		}
	}
	if len(found)+len(errs) == 0 {
		errs = []error{fmt.Errorf("%s: none of its %d blobs is the manifest of a signature; expected a layer that is a sigstore bundle or has the annotation %s", dir, len(blobs), certificateAnnotation)}
	}
	return found, errors.Join(errs...)
}

// signatures returns those in a manifest; none for any other blob.
func (l *layout) signatures(digest string) (found []finding, err error) {
	text, err := l.blob(digest, maxManifest)
	var m manifest
	if err != nil || json.Unmarshal(text, &m) != nil {
		return nil, err
	}
	var errs []error
	for _, layer := range m.Layers {
		f, err := l.signature(layer.MediaType, layer.Digest, layer.Annotations)
		if err != nil {
			errs = append(errs, fmt.Errorf("the signature %s: %w", layer.Digest, err))
		} else if f != nil {
			found = append(found, *f)
		}
	}
	return found, errors.Join(errs...)
}

var digestForm = regexp.MustCompile("^sha256:[0-9a-f]{64}$")

// blob reads JSON, which must have its digest. It returns nothing for a blob that is no JSON object, such
// as a layer of an image, or larger than limit.
func (l *layout) blob(digest string, limit int64) ([]byte, error) {
	if !digestForm.MatchString(digest) {
		return nil, fmt.Errorf("the digest %.80q is not sha256: and 64 hexadecimal digits", digest)
	}
	f, err := l.root.OpenFile("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", f.Name())
	}
	in := bufio.NewReader(f)
	if first, err := in.Peek(1); err != nil || first[0] != '{' || info.Size() > limit {
		return nil, nil
	}
	data, err := files.ReadAll(in, limit)
	if l.read += len(data); err == nil && l.read > maxLayout {
		err = fmt.Errorf("more than %d bytes of manifests and signatures", maxLayout)
	}
	if actual := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); err == nil && actual != digest {
		err = fmt.Errorf("the blob %s was altered: its digest is %s", digest, actual)
	}
	return data, err
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

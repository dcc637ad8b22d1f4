// SPDX-License-Identifier: Apache-2.0

// Command image writes mayfly's container image, an OCI layout with one index for all platforms, without a
// container engine. Equal inputs give equal digests. "make image" runs it.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is the user and the group that the image's process has.
const user = 65532

// source is what one image is built from.
type source struct {
	binaries string // folder with mayfly_OS_ARCHITECTURE for each platform
	rootfs   string // folder with etc/passwd and etc/group
	version  string
	revision string // the commit
	created  time.Time
}

func main() {
	var s source
	out := flag.String("out", "", "the OCI layout to write; it is replaced if it exists")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64", "platforms, separated by commas")
	created := flag.String("created", "", "time of the commit, RFC 3339")
	flag.StringVar(&s.binaries, "binaries", "", "folder with mayfly_OS_ARCHITECTURE for each platform")
	flag.StringVar(&s.rootfs, "rootfs", "", "folder with etc/passwd and etc/group")
	flag.StringVar(&s.version, "version", "", "version of mayfly")
	flag.StringVar(&s.revision, "revision", "", "commit of mayfly")
	flag.Parse()
	var err error
	if s.created, err = time.Parse(time.RFC3339, *created); err == nil {
		var digest v1.Hash
		if digest, err = s.write(*out, strings.Split(*platforms, ",")); err == nil {
			fmt.Println(digest)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "image:", err)
	os.Exit(1)
}

// write writes the layout to the folder out, and returns the digest of its index.
func (s source) write(out string, platforms []string) (digest v1.Hash, err error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range platforms {
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return digest, err
		}
		image, err := s.image(platform)
		if err != nil {
			return digest, fmt.Errorf("building the image for %s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	index = mutate.Annotations(index, s.labels()).(v1.ImageIndex)
	if out == "" {
		return digest, errors.New("--out is required")
	}
	if err := os.RemoveAll(out); err != nil {
		return digest, err
	}
	target, err := layout.Write(out, empty.Index)
	if err != nil {
		return digest, err
	}
	name := map[string]string{"org.opencontainers.image.ref.name": s.version}
	if err := target.AppendIndex(index, layout.WithAnnotations(name)); err != nil {
		return digest, err
	}
	return index.Digest()
}

func (s source) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "mayfly",
		"org.opencontainers.image.description": "A keyless certificate authority for signing software",
		"org.opencontainers.image.source":      "https://github.com/mayfly-ca/mayfly",
		"org.opencontainers.image.url":         "https://github.com/mayfly-ca/mayfly",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     s.version,
		"org.opencontainers.image.revision":    s.revision,
		"org.opencontainers.image.created":     s.created.UTC().Format(time.RFC3339),
	}
}

func (s source) image(platform *v1.Platform) (v1.Image, error) {
	content, err := s.layer(platform)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: s.created.UTC()}
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make image"}})
	if err != nil {
		return nil, err
	}
	config, err := s.config(image, platform)
	if err != nil {
		return nil, err
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, s.labels()).(v1.Image), nil
}

// config states how the image is run.
func (s source) config(image v1.Image, platform *v1.Platform) (*v1.ConfigFile, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: s.created.UTC()}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%[1]d", user),
		WorkingDir: "/var/lib/mayfly",
		Entrypoint: []string{"/usr/bin/mayfly"},
		Cmd:        []string{"serve", "--config", "/etc/mayfly/mayfly.yaml"},
		Env:        []string{"PATH=/usr/bin", "SSL_CERT_FILE=" + caFile},
		// REST, gRPC and the ops listener of config/mayfly.example.yaml.
		ExposedPorts: map[string]struct{}{"5555/tcp": {}, "5554/tcp": {}, "2112/tcp": {}},
		StopSignal:   "SIGTERM",
		Labels:       s.labels(),
	}
	return config, nil
}

const caFile = "/etc/ssl/certs/ca-certificates.crt"

// layer returns the archive of the only layer. Its bytes depend on the content alone: names, order, owners
// and times are fixed.
func (s source) layer(platform *v1.Platform) ([]byte, error) {
	binary, err := os.ReadFile(filepath.Join(s.binaries, "mayfly_"+platform.OS+"_"+platform.Architecture))
	passwd, errPasswd := os.ReadFile(filepath.Join(s.rootfs, "etc/passwd"))
	group, errGroup := os.ReadFile(filepath.Join(s.rootfs, "etc/group"))
	roots, errRoots := caCertificates()
	if err := errors.Join(err, errPasswd, errGroup, errRoots); err != nil {
		return nil, err
	}
	entries := []struct {
		name    string // a folder's ends with a slash
		mode    int64
		owner   int
		content []byte
	}{
		{"etc/", 0o755, 0, nil},
		{"etc/group", 0o644, 0, group},
		{"etc/mayfly/", 0o755, 0, nil},
		{"etc/passwd", 0o644, 0, passwd},
		{"etc/ssl/", 0o755, 0, nil},
		{"etc/ssl/certs/", 0o755, 0, nil},
		{caFile[1:], 0o644, 0, roots},
		{"tmp/", 0o1777, 0, nil},
		{"usr/", 0o755, 0, nil},
		{"usr/bin/", 0o755, 0, nil},
		{"usr/bin/mayfly", 0o755, 0, binary},
		{"var/", 0o755, 0, nil},
		{"var/lib/", 0o755, 0, nil},
		{"var/lib/mayfly/", 0o700, user, nil},
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.owner, Gid: e.owner, Size: int64(len(e.content)), ModTime: s.created, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		if strings.HasSuffix(e.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), w.Close()
}

// caCertificates returns the roots of Mozilla's NSS, as PEM. Their source is a module of the Go project: go.sum
// pins its bytes, and a newer version is one line in go.mod. A root that Mozilla trusts with a constraint is left
// out, because a PEM file cannot state the constraint.
func caCertificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("parsing a root of the bundle: %w", err)
		}
		fmt.Fprintf(&out, "# %s\n", certificate.Subject)
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

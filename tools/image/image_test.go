// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// built returns the image that "make image" has built for this machine's architecture, and its folder.
func built(t *testing.T) (image v1.Image, dir string) {
	t.Helper()
	dir = os.Getenv("MAYFLY_IMAGE")
	if dir == "" {
		t.Skip("MAYFLY_IMAGE is not set; run: make test-image")
	}
	return open(t, filepath.Join(dir, "layout"), runtime.GOARCH), dir
}

// open returns the image for linux on an architecture, from a layout that has one index.
func open(t *testing.T, dir, arch string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the layout has the entries %+v, %v; one is expected", manifest, err)
	}
	if index, err = index.ImageIndex(manifest.Manifests[0].Digest); err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for _, entry := range manifest.Manifests {
		if entry.Platform.OS == "linux" && entry.Platform.Architecture == arch {
			image, err := index.Image(entry.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("the index has no image for linux/%s", arch)
	return nil
}

// example returns what an image is built from, with a binary that is no binary.
func example(t *testing.T) source {
	t.Helper()
	s := source{
		binaries: t.TempDir(), rootfs: "../../deploy/container/rootfs", version: "1.0.0", revision: "0123abcd",
		created: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(s.binaries, "mayfly_linux_"+arch), []byte("binary for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// The digest of the index depends on the content alone, and covers every part of it.
func TestEqualInputsGiveEqualDigests(t *testing.T) {
	t.Parallel()
	digest := func(s source) v1.Hash {
		digest, err := s.write(filepath.Join(t.TempDir(), "layout"), []string{"linux/amd64", "linux/arm64"})
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	first := digest(example(t))
	if again := digest(example(t)); again != first {
		t.Errorf("the same content gave two indexes: %s and %s", first, again)
	}
	for name, change := range map[string]func(*source){
		"binary":   func(s *source) { _ = os.WriteFile(filepath.Join(s.binaries, "mayfly_linux_arm64"), nil, 0o600) },
		"revision": func(s *source) { s.revision = "4567" },
		"time":     func(s *source) { s.created = s.created.Add(time.Second) },
	} {
		s := example(t)
		change(&s)
		if digest(s) == first {
			t.Errorf("another %s gave the same index", name)
		}
	}
}

// A platform without its binary is an error, and no layout is written.
func TestMissingBinaryIsAnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := example(t).write(dir, []string{"linux/amd64", "linux/s390x"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layout exists: %v", err)
	}
}

// entries returns the files and folders of an image by their names.
func entries(t *testing.T, image v1.Image) (headers map[string]*tar.Header, content map[string][]byte) {
	t.Helper()
	headers, content = map[string]*tar.Header{}, map[string][]byte{}
	stream := mutate.Extract(image)
	defer stream.Close()
	for archive := tar.NewReader(stream); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, content
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(header.Name, "/")
		headers[name] = header
		if content[name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// The image has these files and no others: no shell, no package manager, nothing with the set-user-ID bit, and
// nothing that its user can write besides /tmp and its state.
func TestImageHasOnlyWhatItNeeds(t *testing.T) {
	t.Parallel()
	image, _ := built(t)
	headers, content := entries(t, image)
	want := map[string]struct {
		mode  int64
		owner int
	}{
		"etc": {0o755, 0}, "etc/group": {0o644, 0}, "etc/mayfly": {0o755, 0}, "etc/passwd": {0o644, 0},
		"etc/ssl": {0o755, 0}, "etc/ssl/certs": {0o755, 0}, "etc/ssl/certs/ca-certificates.crt": {0o644, 0},
		"tmp": {0o1777, 0}, "usr": {0o755, 0}, "usr/bin": {0o755, 0}, "usr/bin/mayfly": {0o755, 0},
		"var": {0o755, 0}, "var/lib": {0o755, 0}, "var/lib/mayfly": {0o700, 65532},
	}
	for name, header := range headers {
		if w, ok := want[name]; !ok || header.Mode != w.mode || header.Uid != w.owner || header.Gid != w.owner {
			t.Errorf("%s: mode %o, owner %d:%d; expected %+v, %t", name, header.Mode, header.Uid, header.Gid, w, ok)
		}
	}
	if len(headers) != len(want) {
		t.Errorf("the image has %d entries; expected %d", len(headers), len(want))
	}
	for name, line := range map[string]string{"etc/passwd": "mayfly:x:65532:65532:", "etc/group": "mayfly:x:65532:"} {
		if !strings.Contains(string(content[name]), line) {
			t.Errorf("/%s has no line %s", name, line)
		}
	}
	roots := 0
	for rest := content["etc/ssl/certs/ca-certificates.crt"]; ; roots++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err != nil || !c.IsCA {
			t.Errorf("root %d: %v", roots, err)
		}
	}
	if roots < 100 {
		t.Errorf("the image has %d roots; more than 100 are expected", roots)
	}
}

func TestImageStatesHowToRunIt(t *testing.T) {
	t.Parallel()
	image, _ := built(t)
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := file.Config
	if c.User != "65532:65532" || c.WorkingDir != "/var/lib/mayfly" || c.StopSignal != "SIGTERM" || strings.Join(c.Entrypoint, " ") != "/usr/bin/mayfly" || strings.Join(c.Cmd, " ") != "serve --config /etc/mayfly/mayfly.yaml" {
		t.Errorf("the image runs as %+v", c)
	}
	for _, name := range []string{"title", "description", "source", "url", "licenses", "version", "revision", "created"} {
		if c.Labels["org.opencontainers.image."+name] == "" {
			t.Errorf("the label org.opencontainers.image.%s is empty", name)
		}
	}
	if len(c.ExposedPorts) != 3 || len(file.RootFS.DiffIDs) != 1 {
		t.Errorf("the image has the ports %v and %d layers", c.ExposedPorts, len(file.RootFS.DiffIDs))
	}
}

// The list of components names mayfly, its libraries and the standard library.
func TestImageHasAnSBOM(t *testing.T) {
	t.Parallel()
	_, dir := built(t)
	content, err := os.ReadFile(filepath.Join(dir, "mayfly_linux_"+runtime.GOARCH+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	type component struct{ Name, Version, Purl string }
	var sbom struct {
		BOMFormat  string
		Metadata   struct{ Component component }
		Components []component
	}
	if err := json.Unmarshal(content, &sbom); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{sbom.Metadata.Component.Name: "main"}
	for _, c := range sbom.Components {
		names[c.Name] = c.Version
	}
	for _, name := range []string{"github.com/mayfly-ca/mayfly", "google.golang.org/grpc", "github.com/coreos/go-oidc/v3", "std"} {
		if names[name] == "" {
			t.Errorf("%s is not among the components", name)
		}
	}
	if sbom.BOMFormat != "CycloneDX" {
		t.Errorf("the format is %q", sbom.BOMFormat)
	}
}

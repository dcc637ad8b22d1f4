// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// layoutWith writes an OCI image layout whose only manifest has these layers. Each blob is
// at its digest; the digests replace the names of the blobs in the manifest.
func layoutWith(t *testing.T, layers string, blobs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store := func(content string) (digest string) {
		digest = fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		write("blobs/sha256/"+digest, content)
		return "sha256:" + digest
	}
	for name, content := range blobs {
		layers = strings.ReplaceAll(layers, name, store(content))
	}
	store(`{"layers":[` + layers + `]}`)
	write("blobs/sha256/temporary", "{}")
	write("index.json", `{"manifests":[]}`)
	return dir
}

func readTestdata(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "inspect", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestInspectLayout: signatures are found wherever a layout has them, and what is wrong with a
// layout is stated beside them.
func TestInspectLayout(t *testing.T) {
	t.Parallel()
	bundle := readTestdata(t, "hello.sigstore.json")
	leaf, err := json.Marshal(readTestdata(t, "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	const (
		asBundle = `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"BUNDLE"}`
		simple   = `{"critical":{"image":{"docker-manifest-digest":"sha256:abc"}}}`
		envelope = `{"payloadType":"application/vnd.in-toto+json","payload":"eyJwcmVkaWNhdGVUeXBlIjoidHlwZSIsInN1YmplY3QiOlt7ImRpZ2VzdCI6eyJzaGE1MTIiOiJkZWYifX1dfQ=="}`
	)
	asCosign2 := `{"digest":"PAYLOAD","annotations":{"dev.sigstore.cosign/certificate":` + string(leaf) + `,"dev.sigstore.cosign/bundle":"{\"Payload\":{\"integratedTime\":7,\"logIndex\":8,\"logID\":\"c0de\"}}"}}`
	for name, test := range map[string]struct {
		layers string
		blobs  map[string]string
		spoil  func(t *testing.T, dir string)
		code   int
		out    []string
		err    string
	}{
		"a bundle":              {layers: asBundle, blobs: map[string]string{"BUNDLE": bundle}, out: []string{"Identity     ", "Signed", "Timestamp"}},
		"an image of cosign 2":  {layers: asCosign2, blobs: map[string]string{"PAYLOAD": simple}, out: []string{"Signed          sha256:abc", "entry 8 of log c0de at 1970-01-01T00:00:07Z"}},
		"an attestation of it":  {layers: asCosign2, blobs: map[string]string{"PAYLOAD": envelope}, out: []string{"Payload         application/vnd.in-toto+json type", "Signed          sha512:def"}},
		"no signature":          {layers: `{"digest":"sha256:0"}`, code: 1, err: "none of its 2 blobs is a signature"},
		"an altered blob":       {layers: asBundle + "," + asCosign2, blobs: map[string]string{"BUNDLE": bundle, "PAYLOAD": simple}, spoil: alter(bundle), code: 1, out: []string{"sha256:abc", "Problem"}, err: "was altered"},
		"a missing blob":        {layers: strings.ReplaceAll(asCosign2, "PAYLOAD", "sha256:"+strings.Repeat("0", 64)), code: 1, err: "no such file"},
		"a digest with a path":  {layers: strings.ReplaceAll(asCosign2, "PAYLOAD", "sha256:../../../../etc/passwd"), code: 1, err: "is not sha256: and 64 hexadecimal digits"},
		"a link out of it":      {layers: asBundle, blobs: map[string]string{"BUNDLE": bundle}, spoil: linkOut(bundle), code: 1, err: "path escapes"},
		"a pipe":                {layers: asBundle, blobs: map[string]string{"BUNDLE": bundle}, spoil: pipe(bundle), code: 1, err: "no regular file"},
		"a bundle of something": {layers: asBundle, blobs: map[string]string{"BUNDLE": `{"mediaType":"application/vnd.dev.sigstore.bundle","dsseEnvelope":[]}`}, code: 1, err: "reading the sigstore bundle"},
		"an annotation of text": {layers: strings.ReplaceAll(asCosign2, `{\"Pay`, `Pay`), blobs: map[string]string{"PAYLOAD": simple}, code: 1, err: "reading the annotation"},
		"no layout":             {spoil: func(t *testing.T, dir string) { check(t, os.RemoveAll(filepath.Join(dir, "blobs"))) }, code: 1, err: "is a folder, and no OCI image layout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := layoutWith(t, test.layers, test.blobs)
			if test.spoil != nil {
				test.spoil(t, dir)
			}
			code, out, errOut := command(t, "", "inspect", dir)
			for _, want := range test.out {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in:\n%s", want, out)
				}
			}
			if code != test.code || !strings.Contains(errOut, test.err) || test.err == "" && errOut != "" {
				t.Errorf("exit code %d, %s; want %d, %q", code, errOut, test.code, test.err)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pathOf(dir, blob string) string {
	return filepath.Join(dir, "blobs/sha256", fmt.Sprintf("%x", sha256.Sum256([]byte(blob))))
}

func alter(blob string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { check(t, os.WriteFile(pathOf(dir, blob), []byte(blob+" "), 0o600)) }
}

func linkOut(blob string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		outside := filepath.Join(t.TempDir(), "outside")
		check(t, os.WriteFile(outside, []byte(blob), 0o600))
		check(t, os.Remove(pathOf(dir, blob)))
		check(t, os.Symlink(outside, pathOf(dir, blob)))
	}
}

func pipe(blob string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		check(t, os.Remove(pathOf(dir, blob)))
		check(t, syscall.Mkfifo(pathOf(dir, blob), 0o600))
	}
}

// TestInspectNestedTimestamp: the parser of timestamps recurses, so a large one is refused before it.
func TestInspectNestedTimestamp(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]string{maxTimestamp/2 - 100: "reading timestamp 1: ", maxTimestamp: "timestamp 1 has 131"} {
		nested := []byte{0x30, 0x80}
		nested = append([]byte{0x30, 0x83, byte(2 * depth >> 16), byte(2 * depth >> 8), byte(2 * depth)}, bytes.Repeat(nested, depth)...)
		response := append([]byte{0x30, 0x83, byte((len(nested) + 5) >> 16), byte((len(nested) + 5) >> 8), byte(len(nested) + 5), 0x30, 3, 2, 1, 0}, nested...)
		document, err := json.Marshal(map[string]any{"verificationMaterial": map[string]any{"timestampVerificationData": map[string]any{
			"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": response}},
		}}})
		check(t, err)
		if _, err := inspectData(document); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("a timestamp of depth %d: %v", depth, err)
		}
	}
}

// FuzzInspectData: whatever a file holds is read or refused.
func FuzzInspectData(f *testing.F) {
	for _, name := range []string{"hello.sigstore.json", "attestation.jsonl", "cosign2.json", "chain.pem"} {
		f.Add([]byte(readTestdata(f, name)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := inspectData(data)
		if err == nil && len(found) == 0 {
			t.Error("nothing is found, without an error")
		}
		if _, err := json.Marshal(found); err != nil {
			t.Error(err)
		}
	})
}

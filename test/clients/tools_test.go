// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

var mayflyFlag = flag.String("mayfly", "", "the mayfly binary to test; built from this tree if empty")

// toolset is the paths of the programs that the suite runs.
type toolset struct {
	mayfly, cosign3, cosign2, timestampServer, rekorServer, tesseract, crane string

	node        string
	nodeModules string // where npm's sigstore is installed
}

// findTools returns the tools that tools.sh has installed, and a mayfly built from this tree.
func findTools(t *testing.T) toolset {
	t.Helper()
	npm := installed(t, "npm-sigstore-"+pinned(t, "npm/package.json", `"sigstore": "([0-9.]+)"`), "node_modules")
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	return toolset{
		mayfly:          findMayfly(t),
		cosign3:         goTool(t, "cosign3", "github.com/sigstore/cosign/v3", "cosign", "cosign"),
		cosign2:         goTool(t, "cosign2", "github.com/sigstore/cosign/v2", "cosign", "cosign"),
		timestampServer: goTool(t, "timestamp-server", "github.com/sigstore/timestamp-authority/v2", "timestamp-server", "timestamp-server"),
		rekorServer:     goTool(t, "rekor-server", "github.com/sigstore/rekor-tiles/v2", "rekor-server", "posix"),
		tesseract:       goTool(t, "tesseract", "github.com/transparency-dev/tesseract", "tesseract", "posix"),
		crane:           goTool(t, "crane", "github.com/google/go-containerregistry", "crane", "crane"),
		node:            node,
		nodeModules:     npm,
	}
}

func findMayfly(t *testing.T) string {
	t.Helper()
	if *mayflyFlag != "" {
		path, err := filepath.Abs(*mayflyFlag)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := filepath.Join(t.TempDir(), "mayfly")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/mayfly")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building mayfly: %v\n%s", err, out)
	}
	return path
}

// goTool returns the path of a binary that tools.sh has built from tools/name/go.mod.
func goTool(t *testing.T, name, module, prefix, binary string) string {
	t.Helper()
	version := pinned(t, filepath.Join("tools", name, "go.mod"), regexp.QuoteMeta(module)+` (v[0-9.]+)`)
	return installed(t, prefix+"-"+version, binary)
}

// pinned returns the version that file pins, as pattern finds it: only the files that pin versions
// contain them.
func pinned(t *testing.T, file, pattern string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(pattern).FindSubmatch(text)
	if match == nil {
		t.Fatalf("%s pins nothing that matches %s", file, pattern)
	}
	return string(match[1])
}

func installed(t *testing.T, elem ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{"..", "..", ".cache", "tools"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: install the tools with test/clients/tools.sh", err)
	}
	return path
}

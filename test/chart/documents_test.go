// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/kubernetes.md before the first certificate, and then those of a rotation, all succeed in one
// folder, without a cluster, and leave no key beside the CA.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	bin, dir := t.TempDir(), t.TempDir()
	page, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	helmDir, err := filepath.Abs("../../deploy/helm")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eux\n"
	for _, section := range []string{"From nothing to a first certificate", "Rotation"} {
		_, text, _ := strings.Cut(string(page), "\n## "+section+"\n")
		block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(text)
		if block == nil {
			t.Fatalf("the section %q has no commands", section)
		}
		script += block[1]
	}
	script = strings.NewReplacer("deploy/helm/", helmDir+"/", "/media/usb/root", "ca/root", "YOUR-ORG", "octo-org").Replace(script)
	// kubectl requires the files that are named, and reads what it gets.
	kubectl := "#!/bin/sh\nfor a; do case $a in --from-file=*) [ -e \"${a#*=}\" ] || exit 1 ;; -) cat > /dev/null ;; esac; done\n"
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "bash", "-c", script)
	c.Dir, c.Env = dir, append(os.Environ(), "PATH="+bin+":"+filepath.Dir(program(t, "MAYFLY_BINARY"))+":"+os.Getenv("PATH"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "flat*")); err != nil || left != nil {
		t.Errorf("%v is left", left)
	}
}

// A set that has a file elsewhere is refused, and no key is left in the folder.
func TestFlattenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"ca.yaml": "authorities:\n  - {id: a, chain: a/chain.pem, signer: {file: {key: ../b/key.pem}}}\n", "a/chain.pem": "", "a/key.pem": ""} {
		path := filepath.Join(dir, "ca", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "flat")
	message, err := exec.CommandContext(t.Context(), "../../deploy/helm/flatten-ca.sh", filepath.Join(dir, "ca"), out).CombinedOutput()
	if err == nil || !strings.Contains(string(message), "../b/key.pem") {
		t.Errorf("%v: %s; a refusal that names the file is expected", err, message)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", out, err)
	}
}

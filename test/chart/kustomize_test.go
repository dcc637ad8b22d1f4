// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// make manifests renders what is in deploy/kustomize/base.
func TestManifestsAreRendered(t *testing.T) {
	t.Parallel()
	values, err := os.ReadFile("../../deploy/kustomize/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out, err := helm(t, string(values))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rendered := regexp.MustCompile(`(?m)^(.*managed-by: Helm|.*helm\.sh/chart.*|  namespace: .*)\n`).ReplaceAllString(string(out), "")
	base, err := os.ReadFile("../../deploy/kustomize/base/mayfly.yaml")
	if err != nil || string(base) != rendered {
		t.Errorf("deploy/kustomize/base/mayfly.yaml is not what the chart renders (%v); run make manifests", err)
	}
}

// The base and the example of an overlay are valid objects, and their configuration loads.
func TestKustomize(t *testing.T) {
	t.Parallel()
	schemas := deriveSchemas(t)
	for dir, replicas := range map[string]int{"base": 2, "overlays/example": 3} {
		out, err := exec.CommandContext(t.Context(), program(t, "MAYFLY_KUSTOMIZE"), "build", "../../deploy/kustomize/"+dir).Output()
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		if strings.Contains(string(out), "Helm") {
			t.Errorf("%s is from Helm:\n%s", dir, out)
		}
		objects := parse(t, out)
		checkObjects(t, objects)
		checkConfigs(t, objects)
		for _, p := range pods(t, objects) {
			if p.replicas != replicas {
				t.Errorf("%s: %s has %v replicas, want %d", dir, p.owner, p.replicas, replicas)
			}
		}
		if report, err := kubeconform(t, schemas, out); err != nil {
			t.Errorf("%s: %v\n%s", dir, err, report)
		}
	}
}

// The values in docs/kubernetes.md render valid objects.
func TestDocument(t *testing.T) {
	t.Parallel()
	schemas := deriveSchemas(t)
	text, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Errorf("found %d blocks of values, want 2", len(blocks))
	}
	for _, block := range blocks {
		rendered, objects := render(t, block[1])
		checkObjects(t, objects)
		checkConfigs(t, objects)
		if report, err := kubeconform(t, schemas, rendered); err != nil {
			t.Errorf("%v\n%s\n%s", err, report, block[1])
		}
	}
}

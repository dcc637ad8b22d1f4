// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// BuildKit's own parser reads the Dockerfiles: each instruction exists, with its flags, and each stage that files
// are copied from.
func TestDockerfilesParse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Dockerfile", "Dockerfile.pkcs11"} {
		content, err := os.ReadFile("../../deploy/container/" + name)
		if err != nil {
			t.Fatal(err)
		}
		result, err := parser.Parse(bytes.NewReader(content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, warning := range result.Warnings {
			t.Errorf("%s: %s", name, warning.Short)
		}
		stages, _, err := instructions.Parse(result.AST, nil)
		if err != nil || len(stages) != 2 {
			t.Errorf("%s: %d stages, %v", name, len(stages), err)
			continue
		}
		for _, command := range stages[1].Commands {
			if c, ok := command.(*instructions.CopyCommand); ok && c.From != "" && c.From != stages[0].Name {
				t.Errorf("%s copies from %q, which is no stage", name, c.From)
			}
		}
	}
}

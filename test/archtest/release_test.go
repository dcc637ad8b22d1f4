// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Every way to build mayfly uses the same flags: releases, images and packages have equal binaries.
func TestBuildsHaveTheSameFlags(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]string{
		"Makefile":                           {`RELEASE_FLAGS := -trimpath -buildvcs=true -ldflags="-s -w"`, "CGO_ENABLED=0 GOOS"},
		".goreleaser.yaml":                   {"flags: [-trimpath, -buildvcs=true]", `ldflags: ["-s -w"]`, "env: [CGO_ENABLED=0]"},
		"deploy/container/.ko.yaml":          {"flags: [-trimpath, -buildvcs=true]", "ldflags: [-s, -w]", "env: [CGO_ENABLED=0]"},
		"deploy/container/Dockerfile":        {"CGO_ENABLED=0 ", `go build -trimpath -buildvcs=true -tags "$SIGNERS" -ldflags="-s -w"`},
		"deploy/container/Dockerfile.pkcs11": {"CGO_ENABLED=1 ", `go build -trimpath -buildvcs=true -tags "$SIGNERS" -ldflags="-s -w"`},
	} {
		text := read(t, file)
		for _, flags := range want {
			if !strings.Contains(text, flags) {
				t.Errorf("%s does not have %s", file, flags)
			}
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var pinnedAction = regexp.MustCompile(`^actions/[a-z-]+@[0-9a-f]{40}$`)

// Workflows run only actions of GitHub itself, by commit. No job has a right by default, and a job that can write
// is one of a release.
func TestWorkflowsArePinned(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../.github/workflows/*")
	if err != nil || len(files) < 2 {
		t.Fatalf("found the workflows %q, %v", files, err)
	}
	for _, file := range files {
		var workflow struct {
			Permissions map[string]string
			Jobs        map[string]struct {
				Permissions map[string]string
				Steps       []struct{ Uses, Run string }
			}
		}
		name := filepath.Base(file)
		if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/"+name)), &workflow); err != nil {
			t.Fatal(err)
		}
		if workflow.Permissions == nil || len(workflow.Permissions) > 0 {
			t.Errorf("%s: the permissions of all jobs are %v; expected none", name, workflow.Permissions)
		}
		for id, job := range workflow.Jobs {
			for right, level := range job.Permissions {
				if level != "read" && (name != "release.yaml" || id != "release") {
					t.Errorf("%s: job %s has %s: %s", name, id, right, level)
				}
			}
			for _, step := range job.Steps {
				if step.Uses != "" && !pinnedAction.MatchString(step.Uses) {
					t.Errorf("%s: job %s uses %s; expected an action of GitHub by its commit", name, id, step.Uses)
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s: job %s has an expression in a script: %s", name, id, step.Run)
				}
			}
		}
	}
}

// The Dockerfiles run mayfly as "make image" does. Their grammar is checked where tools/image is tested.
func TestImagesRunTheSameWay(t *testing.T) {
	t.Parallel()
	image := read(t, "tools/image/main.go")
	for _, file := range []string{"deploy/container/Dockerfile", "deploy/container/Dockerfile.pkcs11"} {
		lines := strings.Split(read(t, file), "\n")
		for _, want := range []string{
			"USER 65532:65532", "WORKDIR /var/lib/mayfly", "EXPOSE 5555 5554 2112", "STOPSIGNAL SIGTERM",
			`ENTRYPOINT ["/usr/bin/mayfly"]`, `CMD ["serve", "--config", "/etc/mayfly/mayfly.yaml"]`,
		} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s does not have %s", file, want)
			}
		}
	}
	for _, want := range []string{"const user = 65532", `"/var/lib/mayfly"`, `[]string{"/usr/bin/mayfly"}`, `[]string{"serve", "--config", "/etc/mayfly/mayfly.yaml"}`} {
		if !strings.Contains(image, want) {
			t.Errorf("tools/image does not have %s", want)
		}
	}
}

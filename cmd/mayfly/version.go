// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"crypto/fips140"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
)

// A build without git's data sets these: -ldflags "-X main.stampVersion=v1.0.0 -X main.stampCommit=… -X
// main.stampTime=…". Otherwise the go command records them.
var stampVersion, stampCommit, stampTime string

const platform = runtime.GOOS + "/" + runtime.GOARCH

// build is what this binary was built from, and what it contains.
type build struct {
	Version  string   `json:"version"`
	Commit   string   `json:"commit,omitempty"`
	Time     string   `json:"time,omitempty"` // of the commit, RFC 3339
	Modified bool     `json:"modified,omitempty"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Signers  []string `json:"signers"`
	Features []string `json:"features"`
}

func readBuild() build {
	b := build{Version: stampVersion, Commit: stampCommit, Time: stampTime, Go: runtime.Version(), Platform: platform, Signers: keyring.Kinds(), Features: []string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	if info.Main.Version != "(devel)" {
		b.Version = cmp.Or(b.Version, info.Main.Version)
	}
	b.Version = cmp.Or(b.Version, "devel")
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = cmp.Or(b.Commit, s.Value)
		case s.Key == "vcs.time":
			b.Time = cmp.Or(b.Time, s.Value)
		case s.Key == "vcs.modified":
			b.Modified = s.Value == "true"
		case s.Key == "CGO_ENABLED" && s.Value == "1":
			b.Features = append(b.Features, "cgo")
		case s.Key == "-race" && s.Value == "true":
			b.Features = append(b.Features, "race")
		}
	}
	if fips140.Enabled() {
		b.Features = append(b.Features, "fips140")
	}
	return b
}

// text is what mayfly version prints for people.
func (b build) text() string {
	text := fmt.Sprintf("mayfly %s %s %s\n", b.Version, b.Go, b.Platform)
	if b.Commit != "" {
		changed := ""
		if b.Modified {
			changed = ", with changes that are in no commit"
		}
		text += fmt.Sprintf("commit: %s of %s%s\n", b.Commit, cmp.Or(b.Time, "an unknown time"), changed)
	}
	return text + fmt.Sprintf("signers: %s\nfeatures: %s\n", strings.Join(b.Signers, ", "), cmp.Or(strings.Join(b.Features, ", "), "none"))
}

func versionCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit, and what this binary contains",
		Example: "  mayfly version\n  mayfly version -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			b := readBuild()
			return out.print(c, b, b.text())
		},
	}
	addOutput(c, &out)
	return c
}

// version is the module's version as the build recorded it, with the commit between two versions, or "devel".
func version() string { return readBuild().Version }

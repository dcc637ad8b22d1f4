// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
)

// build is what this binary is, for people and for programs. Its JSON keys are stable.
type build struct {
	Version  string   `json:"version"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Signers  []string `json:"signers"`
}

func newBuild() build {
	return build{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, keyring.Kinds()}
}

func (b build) String() string {
	return fmt.Sprintf("mayfly %s %s %s\nsigners: %s\n", b.Version, b.Go, b.Platform, strings.Join(b.Signers, ", "))
}

func versionCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  mayfly version\n  mayfly version -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			if out.json() {
				return printJSON(c.OutOrStdout(), newBuild())
			}
			_, err := fmt.Fprint(c.OutOrStdout(), newBuild())
			return err
		},
	}
	addOutput(c, &out)
	return c
}

// version is the module's version as the build recorded it, or the commit, or "devel".
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return "devel-" + setting.Value[:12]
		}
	}
	return "devel"
}

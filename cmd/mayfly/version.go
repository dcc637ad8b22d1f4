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

// versionText is what mayfly version prints for people.
func versionText() string {
	return fmt.Sprintf("mayfly %s %s %s/%s\nsigners: %s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, strings.Join(keyring.Kinds(), ", "))
}

func versionCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  mayfly version\n  mayfly version -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			if out.json() {
				return printJSON(c.OutOrStdout(), map[string]any{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "signers": keyring.Kinds()})
			}
			_, err := fmt.Fprint(c.OutOrStdout(), versionText())
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

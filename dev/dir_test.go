// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefusesDirectoriesThatOthersCanChange prepares obstacles that another user, or an archive of
// theirs, can create. The directory is own/world; victim is a file beside it.
func TestRefusesDirectoriesThatOthersCanChange(t *testing.T) {
	t.Parallel()
	const world = "mkdir -p own/world; touch own/world/.mayfly-dev; cd own/world; "
	for name, test := range map[string]struct {
		prepare string // commands of a shell
		owned   bool
	}{
		"a missing one":               {"", true},
		"an empty one":                {"mkdir -p own/world", true},
		"a world":                     {world, true},
		"a link of one's own":         {"mkdir real own; ln -s ../real own/world", true},
		"a sticky parent":             {"mkdir own; chmod 1777 own", true},
		"any umask, in a private one": {world + "chmod 700 .; chmod 666 .mayfly-dev", true},
		"settings that are a link":    {world + "ln -s ../../victim mayfly.yaml", false},
		"a dangling link":             {world + "ln -s ../../new rekor.key", false},
		"a lock that is a link":       {world + "ln -s ../../new lock", false},
		"a marker that is a link":     {world + "ln -sf ../../new .mayfly-dev", false},
		"a folder that is a link":     {world + "ln -s ../.. tuf", false},
		"a link deep inside":          {world + "mkdir -p tuf/targets; ln -s /victim tuf/targets/x", false},
		"a FIFO":                      {world + "mkfifo tsa.key", false},
		"a FIFO for a marker":         {"mkdir -p own/world; mkfifo own/world/.mayfly-dev", false},
		"a FIFO for a directory":      {"mkdir own; mkfifo own/world", false},
		"a hard link":                 {world + "ln ../../victim issuers.yaml", false},
		"a hard link inside":          {world + "echo > a; ln a b", true}, // as a killed Tessera leaves it
		"a mode for all":              {world + "chmod 777 .", false},
		"sticky, for all":             {world + "chmod 1777 .", false},
		"a file for all":              {world + "chmod 666 .mayfly-dev", false},
		"a parent for all":            {world + "chmod 777 ..", false},
		"another's":                   {"mkdir -p own/world; chown 65534 own/world", false},
		"another's world":             {world + "chown 65534 . .mayfly-dev", false},
		"another's file":              {world + "chown 65534 .mayfly-dev", false},
		"another's parent":            {world + "chown 65534 ..", false},
		"another's parent, new":       {"mkdir own; chown 65534 own", false},
		"another's link":              {"mkdir real own; ln -s ../real own/world; chown -h 65534 own/world", false},
		"a link through another's":    {"mkdir -p real theirs own; ln -s ../real theirs/hop; ln -s ../theirs/hop own/world; chown 65534 theirs", false},
		"new, through another's link": {"mkdir real own; ln -s real hop; chown -h 65534 hop; rmdir own; ln -s hop own", false},
		"links without an end":        {"mkdir own; ln -s world own/world", false},
		// Its target ends in "..", after a link to a directory below another user's.
		"a link out of another's": {"mkdir -p world theirs/world theirs/sub own; ln -s theirs/sub hop; ln -s ../hop/../world own/world; chown 65534 theirs", false},
		"a link into another's":   {"mkdir -p theirs/world own; ln -s ../theirs/world own/world; chown 65534 theirs", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.prepare, "chown") && os.Geteuid() != 0 {
				t.Skip("only root can give files to another user")
			}
			base := t.TempDir()
			command := exec.CommandContext(t.Context(), "sh", "-ec", "echo mine > victim; "+test.prepare)
			command.Dir = base
			if out, err := command.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			dir, err := ownDir(filepath.Join(base, "own", "world"))
			if (err == nil) != test.owned {
				t.Errorf("%s, %v, want it owned: %t", dir, err, test.owned)
			}
		})
	}
}

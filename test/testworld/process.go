// SPDX-License-Identifier: Apache-2.0

package testworld

import (
	"fmt"
	"os"
	"path/filepath"
)

// Executable returns the absolute path of a program that a variable names. `go test` runs a test in the
// folder of its package, two below the module's, in which make and most callers are: a relative path is
// looked for in both.
func Executable(variable, path string) (string, error) {
	for _, dir := range []string{".", filepath.Join("..", "..")} {
		found := path
		if !filepath.IsAbs(path) {
			found = filepath.Join(dir, path)
		}
		if info, err := os.Stat(found); err == nil && info.Mode().IsRegular() {
			return filepath.Abs(found)
		}
	}
	return "", fmt.Errorf("%s names %s, where there is no file; the path of a program is expected", variable, path)
}

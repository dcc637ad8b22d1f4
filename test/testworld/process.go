// SPDX-License-Identifier: Apache-2.0

package testworld

import (
	"fmt"
	"net"
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

// FreeAddresses returns n addresses of host, a loopback address, at which nothing listens now. Where
// only one caller uses the host, nothing takes them before that caller's server does.
func FreeAddresses(host string, n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

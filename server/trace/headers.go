// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// maxHeaders exceeds the headers of every collector.
const maxHeaders = 16 << 10

// ReadHeaders reads a file of headers, and returns a warning if too many users can read it. No error
// shows a value.
func ReadHeaders(name string) (headers map[string]string, warning, err error) {
	content, warning, err := files.ReadSecret(name, maxHeaders)
	if err != nil {
		return nil, nil, err
	}
	if content, err = files.Text(content); err == nil {
		headers, err = parseHeaders(string(content))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return headers, warning, nil
}

// parseHeaders reads lines of the form "name: value". Names and values are what gRPC permits
// ("Custom-Metadata"); its own headers and binary ones are refused.
func parseHeaders(text string) (map[string]string, error) {
	form := regexp.MustCompile(`^[ \t]*([0-9A-Za-z_.-]+)[ \t]*:[ \t]*([!-~]|[!-~][ -~]*[!-~])\s*$`)
	own := regexp.MustCompile(`^(grpc-.*|.*-bin|te|content-type|user-agent)$`)
	headers := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		header := form.FindStringSubmatch(line)
		if header == nil {
			return nil, fmt.Errorf("line %d is not of the form \"name: value\" in printable ASCII", i+1)
		}
		name := strings.ToLower(header[1])
		if own.MatchString(name) || headers[name] != "" {
			return nil, fmt.Errorf("line %d has a header of gRPC's own, or one that is repeated", i+1)
		}
		headers[name] = header[2]
	}
	return headers, nil
}

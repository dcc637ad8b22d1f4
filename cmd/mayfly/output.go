// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// maxInput bounds how much a command reads from a file or standard input.
const maxInput = 1 << 20

// readInput reads the file name, or standard input for "-", up to maxInput bytes, without a byte
// order mark.
func readInput(stdin io.Reader, name string) ([]byte, error) { return readUpTo(maxInput, stdin, name) }

func readUpTo(limit int64, stdin io.Reader, name string) (data []byte, err error) {
	if name == "-" {
		data, err = files.ReadAll(stdin, limit)
	} else {
		data, err = files.Read(name, limit)
	}
	if err == nil {
		data, err = files.Text(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// printJSON writes one value for a program, in a form that a person can read too.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// errorText is the text of err for a program; "" for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// table prints rows for a person, with aligned columns.
type table struct{ *tabwriter.Writer }

func newTable(out io.Writer) table { return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)} }

// row adds a row. Text of others is escaped.
func (t table) row(cells ...any) {
	printable.Fprintf(t, strings.Repeat("%v\t", len(cells)-1)+"%v\n", cells...)
}

// given adds a row, unless its text is empty.
func (t table) given(label, text string) {
	if text != "" {
		t.row(label, text)
	}
}

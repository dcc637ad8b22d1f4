// SPDX-License-Identifier: Apache-2.0

package pem_test

import (
	"bytes"
	"crypto/x509"
	encoding "encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	mark = "\ufeff"
	a    = "-----BEGIN A-----\nYQ==\n-----END A-----\n"
	b    = "-----BEGIN B-----\nYg==\n-----END B-----\n"
)

// No block is dropped in silence: each file gives all of its blocks or an error.
func TestPEM(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		data  string
		types string // of the blocks, or the line of the error in words
		rest  string
	}{
		"nothing":                      {"", "", ""},
		"no PEM":                       {"hello", "", "hello"},
		"two":                          {a + b, "AB", ""},
		"text around":                  {"Subject: a\n\n" + a + "# b\n" + b + "end\n", "AB", "end\n"},
		"Windows line endings":         {strings.ReplaceAll(a+b, "\n", "\r\n"), "AB", ""},
		"one long line":                {"-----BEGIN A-----\n" + strings.Repeat("YWFh", 1000) + "\n-----END A-----", "A", ""},
		"headers":                      {"-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x,y\n\nYQ==\n-----END A-----\n", "A", ""},
		"words in the text":            {"The front-end begins here -- begin of the chain, - END -\n" + a, "A", ""},
		"mark":                         {mark + a + b, "AB", ""},
		"marks of joined files":        {mark + a + mark + b, "AB", ""},
		"space before BEGIN":           {" " + a + b, "line 1", ""},
		"second is indented":           {a + "  " + b, "line 4", ""},
		"no line break between":        {strings.TrimSuffix(a, "\n") + b, "line 1", ""},
		"text after END":               {strings.TrimSuffix(a, "\n") + " # leaf\n" + b, "line 1", ""},
		"old Macintosh line endings":   {strings.ReplaceAll(a+b, "\n", "\r"), "line 1", ""},
		"broken base64":                {"-----BEGIN A-----\nY?==\n-----END A-----\n" + b, "line 1", ""},
		"no END":                       {"-----BEGIN A-----\nYQ==\n" + b, "line 1", ""},
		"no BEGIN":                     {"YQ==\n-----END A-----\n" + b, "line 2", ""},
		"types differ":                 {"-----BEGIN A-----\nYQ==\n-----END B-----\n" + b, "line 1", ""},
		"four dashes":                  {"-" + a[2:] + b, "line 1", ""},
		"dashes of a word processor":   {strings.ReplaceAll(a, "-----", "––—") + b, "line 1", ""},
		"lower case":                   {strings.ToLower(a) + b, "line 1", ""},
		"spaces within the dashes":     {strings.NewReplacer("-B", "- B", "-E", "- E", "A-", "A -").Replace(a) + b, "line 1", ""},
		"zero width space in a marker": {strings.Replace(a, "-B", "-\u200bB", 1) + b, "line 1", ""},
		"END begins a line of text":    {a + "END of the first one\n" + b, "AB", ""},
		"no space":                     {"-----BEGIN-----\nYQ==\n-----END-----\n" + b, "line 1", ""},
		"UTF-16 without a mark":        {strings.ReplaceAll(a, "", "\x00"), "UTF-16", ""},
	} {
		blocks, rest, err := pem.Blocks([]byte(test.data))
		types := ""
		for _, block := range blocks {
			types += block.Type
		}
		if err != nil {
			types = err.Error()
		}
		if err == nil && (types != test.types || string(rest) != test.rest) || err != nil && (len(test.types) < 4 || !strings.Contains(types, test.types)) {
			t.Errorf("%s: got %q and rest %q, want %q and %q", name, types, rest, test.types, test.rest)
		}
	}
}

func TestCertPool(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"nothing": "", "no PEM": "hello", "a key": "-----BEGIN PRIVATE KEY-----\nYQ==\n-----END PRIVATE KEY-----\n",
		"no certificate": "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n", "hidden": " -----BEGIN CERTIFICATE-----\n",
	} {
		if err := pem.CertPool(x509.NewCertPool(), []byte(data)); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// What is accepted has as many blocks as it has BEGIN lines, and each is the one that encoding/pem
// decodes.
func FuzzPEM(f *testing.F) {
	for _, seed := range []string{"", a + b, mark + a, " " + a, a + "-----END A-----", strings.ReplaceAll(a, "\n", "\r\n"), "\xff\xfe", "-----BEGIN A-----\nx: y\n\nYQ==\n-----END A-----"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, rest, err := pem.Blocks(data)
		if err != nil {
			return
		}
		if begins := bytes.Count(data, []byte("-----BEGIN")); begins != len(blocks) {
			t.Errorf("%d blocks for %d BEGIN lines", len(blocks), begins)
		}
		if !bytes.HasSuffix(bytes.ReplaceAll(data, []byte(mark), nil), rest) {
			t.Errorf("the rest %q is not the end", rest)
		}
		for _, block := range blocks {
			var decoded *encoding.Block
			decoded, data = encoding.Decode(bytes.ReplaceAll(data, []byte(mark), nil))
			if decoded == nil || decoded.Type != block.Type || !slices.Equal(decoded.Bytes, block.Bytes) {
				t.Errorf("got block %v, want %v", block, decoded)
			}
		}
	})
}

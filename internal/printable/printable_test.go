// SPDX-License-Identifier: Apache-2.0

package printable_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/printable"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                      "",
		"person@example.com":                    "person@example.com",
		`a\b "c" <d> & 100%`:                    `a\b "c" <d> & 100%`,
		"grün 日本 ñ € 😀":                         "grün 日本 ñ € 😀",
		"\x1b[2J\x1b]0;title\x07":               `\u001b[2J\u001b]0;title\u0007`,
		"a\r\nmayfly: ok\tb\v\f\x00\b":          `a\u000d\u000amayfly: ok\u0009b\u000b\u000c\u0000\u0008`,
		"\x7f\u0080\u009b31m\u0085":             `\u007f\u0080\u009b31m\u0085`,
		"\u202egnp.exe\u202c":                   `\u202egnp.exe\u202c`,
		"\u2066a\u2069\u200e\u200f\u061c":       `\u2066a\u2069\u200e\u200f\u061c`,
		"a\u200b\u200c\u200d\u2060\ufeff\u00ad": `a\u200b\u200c\u200d\u2060\ufeff\u00ad`,
		"a\u2028b\u2029c":                       `a\u2028b\u2029c`,
		"\U000e0041\U000e0001":                  `\udb40\udc41\udb40\udc01`,
		"\u115f\u1160\u3164\uffa0\u034f\u2800\ufe0f\U000e0100": `\u115f\u1160\u3164\uffa0\u034f\u2800\ufe0f\udb40\udd00`,
		"a\u00a0b\u3000c\u2003d":                               `a\u00a0b\u3000c\u2003d`,
		"\ue000\U000f0000\U0010ffff":                           `\ue000\udb80\udc00\udbff\udfff`,
		"\xff\xc3(\xed\xa0\x80\x9b":                            `\ufffd\ufffd(\ufffd\ufffd\ufffd\ufffd`,
	} {
		if got := printable.Line(text); got != want {
			t.Errorf("%q becomes %s, want %s", text, got, want)
		}
	}
}

func TestFprintfKeepsTheLinesOfItsFormatOnly(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	_, err := printable.Fprintf(&out, "%s\t%d %q %v\n", "a\nb", 7, []string{"\x1b"}, errors.New("c\rd"))
	if want := "a\\u000ab\t7 [\"\\x1b\"] c\\u000dd\n"; err != nil || out.String() != want {
		t.Errorf("%q, %v, want %q", out.String(), err, want)
	}
}

// TestLinesOfErrors: what this program joins is on lines of its own, and a line break in foreign
// text begins none.
func TestLinesOfErrors(t *testing.T) {
	t.Parallel()
	foreign := errors.New("a\nmayfly: all is well\x1b[0m")
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"one":           {foreign, `a\u000amayfly: all is well\u001b[0m`},
		"wrapped":       {fmt.Errorf("%s: %w", "x\ny", foreign), `x\u000ay: a\u000amayfly: all is well\u001b[0m`},
		"wrapped after": {fmt.Errorf("%w; %s", fs.ErrNotExist, "x\ny"), `file does not exist; x\u000ay`},
		"below":         {fmt.Errorf("two:\n%w", errors.Join(foreign, fs.ErrExist)), "two:\n" + `a\u000amayfly: all is well\u001b[0m` + "\nfile already exists"},
		"joined":        {errors.Join(fs.ErrExist, errors.Join(foreign, foreign)), "file already exists\n" + `a\u000amayfly: all is well\u001b[0m` + "\n" + `a\u000amayfly: all is well\u001b[0m`},
		"two at once":   {fmt.Errorf("%w: %s: %w", fs.ErrExist, "x\ny", fs.ErrNotExist), `file already exists: x\u000ay: file does not exist`},
		"empty":         {fmt.Errorf("a\nb%w", errors.New("")), `a\u000ab`},
		"another text":  {renamed{foreign}, `other\u000atext`},
	} {
		if got := printable.Lines(test.err); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

type renamed struct{ error }

func (renamed) Error() string { return "other\ntext" }

func (r renamed) Unwrap() error { return r.error }

// wantShown fails where text holds what a terminal would not show as itself.
func wantShown(t *testing.T, text, allowed string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%q is no UTF-8", text)
	}
	for i, r := range text {
		control := r < 0x20 || 0x7f <= r && r < 0xa0
		direction := r == 0x61c || r == 0x200e || r == 0x200f || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
		if (control || direction || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) && !strings.ContainsRune(allowed, r) {
			t.Errorf("%q holds %U at %d", text, r, i)
		}
	}
}

// written returns what a Writer makes of text.
func written(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	if n, err := printable.NewWriter(&out).Write([]byte(text)); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
	return out.String()
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\r\nb\tc\u202e\U000e0041")
	f.Add("{\"a\": \"\u009b\u200b\x7f\"}\r\n")
	f.Add("\xe2\x80")
	f.Add("\x1b[2J\x07 ASCII\r")
	f.Add("\xff\xf0\x9f\x98")
	f.Fuzz(func(t *testing.T, text string) {
		wantShown(t, printable.Line(text), "")
		if again := printable.Line(printable.Line(text)); again != printable.Line(text) {
			t.Errorf("%q changes again: %q", text, again)
		}
		wantShown(t, strings.ReplaceAll(written(t, text), "\r\n", "\n"), "\n\t")
		encoded, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(encoded, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(written(t, string(encoded))), &got); err != nil || got != want {
			t.Errorf("JSON of %q becomes %q: %v", want, got, err)
		}
	})
}

func TestWriterPassesMachineOutput(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n", "{\r\n\t\"a\": [1, \"b\\u001b\"]\r\n}\r\n", "Größe\t→ …\n",
	} {
		if diff := cmp.Diff(text, written(t, text)); diff != "" {
			t.Error(diff)
		}
	}
}

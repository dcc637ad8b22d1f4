// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the results in testdata, and docs/configuration.md")

// TestFiles reads the files of each archive in testdata/mistakes and testdata/read, each with the
// variables that may follow it. It compares the result with what follows then: all mistakes; or the
// keys that have a value, and warnings. -update writes the results: check that each mistake is at the
// place that its author must change, and names the key.
func TestFiles(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(archives) < 12 {
		t.Fatalf("%d archives: %v", len(archives), err)
	}
	for _, path := range archives {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var written []txtar.File
		for i := 0; i < len(a.Files); {
			f, environ := a.Files[i], []string(nil)
			written = append(written, f)
			if i++; i < len(a.Files) && a.Files[i].Name == f.Name+", environment" {
				written, environ = append(written, a.Files[i]), strings.Fields(string(a.Files[i].Data))
				i++
			}
			name := "m"
			if filepath.Dir(path) == "testdata/read" {
				name = "dir/m"
			}
			outcome, got := outcomeOf(strings.TrimSuffix(filepath.Base(path), ".txtar"), name, f.Data, environ)
			result := txtar.File{Name: f.Name + ", " + outcome, Data: []byte(got)}
			if i < len(a.Files) && strings.HasPrefix(a.Files[i].Name, f.Name+", ") {
				if diff := cmp.Diff(string(a.Files[i].Data), got); (diff != "" || a.Files[i].Name != result.Name) && !*update {
					t.Errorf("%s, %s (-want +got):\n%s", path, result.Name, diff)
				}
				i++
			} else if !*update {
				t.Errorf("%s, %s: no result is stored", path, f.Name)
			}
			written = append(written, result)
		}
		if *update {
			if err := os.WriteFile(path, bytes.TrimLeft(txtar.Format(&txtar.Archive{Files: written}), "\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// outcomeOf reads a file of the kind given.
func outcomeOf(kind, name string, content []byte, environ []string) (outcome, text string) {
	var document any
	var warnings []error
	var err error
	switch kind {
	case "server":
		document, warnings, err = ParseServer(name, content, environ)
	case "issuers", "issuers-json", "issuers-compat", "issuers-syntax":
		document, warnings, err = ParseIssuers(name, content, kind == "issuers-compat", nil)
	case "caset":
		document, warnings, err = ParseCASet(name, content)
	case "signer":
		var s Signer
		s, err = ParseSigner(name, content, "dir")
		document = &s
	case "ceremony":
		document, warnings, err = parseCeremony(name, content)
	}
	var out strings.Builder
	for _, warning := range warnings {
		fmt.Fprintf(&out, "warning: %v\n", warning)
	}
	if err != nil {
		outcome = "mistakes"
		fmt.Fprintf(&out, "%v\n", err)
	} else {
		outcome = "read"
		show(&out, "", reflect.ValueOf(document).Elem())
	}
	return outcome, strings.ReplaceAll(out.String(), "dir/m:", "m:")
}

// show writes the keys below v that have a value.
func show(out *strings.Builder, path string, v reflect.Value) {
	switch kind := v.Kind(); {
	case v.IsZero():
	case kind == reflect.Slice && strings.HasSuffix(path, "pkcs11.id"):
		fmt.Fprintf(out, "%s = %x\n", path, v.Bytes())
	case v.Type() == reflect.TypeFor[json.RawMessage](), v.Type() == reflect.TypeFor[[]byte]():
		fmt.Fprintf(out, "%s = %s\n", path, strings.TrimSpace(string(v.Bytes())))
	case kind == reflect.Pointer:
		show(out, path, v.Elem())
	case kind == reflect.Struct && formOf(v.Type()) == "":
		for _, f := range fields(v.Type(), false) {
			show(out, strings.TrimPrefix(path+"."+f.yaml, "."), v.FieldByIndex(f.index))
		}
	case kind == reflect.Map:
		for _, key := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			if value := v.MapIndex(key); value.Kind() == reflect.String {
				fmt.Fprintf(out, "%s.%s = %s\n", path, key, value) // a default may be empty
			} else {
				show(out, path+"."+key.String(), value)
			}
		}
	case kind == reflect.Slice:
		for i := range v.Len() {
			name := strconv.Itoa(i)
			if entry, ok := v.Index(i).Interface().(Issuer); ok {
				name = entry.Key
			}
			show(out, path+"."+name, v.Index(i))
		}
	default:
		fmt.Fprintf(out, "%s = %v\n", path, v.Interface())
	}
}

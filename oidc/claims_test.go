// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseClaims(t *testing.T) {
	t.Parallel()
	got, err := ParseClaims([]byte(` {"s":"a\u0041\n","n":-1.50e+2,"t":true,"f":false,"z":null,"l":[1,"x",[]],"o":{"a":{}},"":"empty name","É":1} `))
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{
		"s": "aA\n", "n": Number("-1.50e+2"), "t": true, "f": false, "z": nil,
		"l": []any{Number("1"), "x", []any{}}, "o": Claims{"a": Claims{}}, "": "empty name", "É": Number("1"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseClaimsRefuses(t *testing.T) {
	t.Parallel()
	for name, document := range map[string]string{
		"nothing":                  ``,
		"an array":                 `[]`,
		"an open object":           `{"a":1`,
		"a byte order mark":        "\ufeff{}",
		"invalid UTF-8":            "{\"a\":\"\xc3\x28\"}",
		"invalid UTF-8 in a name":  "{\"\xff\":1}",
		"a lone surrogate":         `{"a":"\udc00"}`,
		"twice":                    `{"a":1,"a":1}`,
		"twice through an escape":  `{"a":1,"\u0061":1}`,
		"twice in another case":    `{"a":1,"A":1}`,
		"twice with a Kelvin sign": `{"kid":1,"\u212aid":1}`,
		"twice with a long s":      `{"iss":1,"i\u017fs":1}`,
		"twice beyond ASCII":       `{"é":1,"É":1}`,
		"twice in a nested object": `{"a":{"b":1,"b":2}}`,
		"twice within an array":    `{"a":[{"b":1,"B":2}]}`,
		"17 levels":                strings.Repeat(`{"a":`, 17) + `1` + strings.Repeat(`}`, 17),
		"too many values":          `{"a":[` + strings.Repeat(`1,`, maxClaimsValues) + `1]}`,
		"too many bytes":           `{"a":"` + strings.Repeat(`a`, MaxTokenSize) + `"}`,
	} {
		if claims, err := ParseClaims([]byte(document)); err == nil {
			t.Errorf("%s: accepted as %v", name, claims)
		}
	}
	if _, err := ParseClaims([]byte(strings.Repeat(`{"a":`, 16) + `1` + strings.Repeat(`}`, 16))); err != nil {
		t.Errorf("16 levels: %v", err)
	}
}

func FuzzParseClaims(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"iss":"https://a","sub":"b","aud":["c"],"exp":1.5e9}`, `{"iss":1,"ISS":2}`, `{"a":{"b":[{"c":null}]}}`,
		`{"iſs":"x"}`, `{"a":"\ud83d\ude00"}`, `{"n":-0}`, `{"n":1E400}`, strings.Repeat(`{"a":`, 20), "{\"\xff\":1}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		claims, err := ParseClaims(document)
		if err != nil {
			return
		}
		// encoding/json must see the same members with the same values.
		dec := json.NewDecoder(bytes.NewReader(document))
		dec.UseNumber()
		var other map[string]any
		if err := dec.Decode(&other); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", document, err)
		}
		if diff := cmp.Diff(other, relabel(claims)); diff != "" {
			t.Errorf("%q: %s", document, diff)
		}
		checkFolds(t, claims)
	})
}

// relabel returns v with Numbers as encoding/json's.
func relabel(v any) any {
	switch v := v.(type) {
	case Number:
		return json.Number(v)
	case []any:
		list := []any{}
		for _, element := range v {
			list = append(list, relabel(element))
		}
		return list
	case Claims:
		object := map[string]any{}
		for name, member := range v {
			object[name] = relabel(member)
		}
		return object
	default:
		return v
	}
}

// checkFolds fails if encoding/json would take two names in one object for one.
func checkFolds(t *testing.T, v any) {
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			checkFolds(t, element)
		}
	case Claims:
		var names []string
		for name, member := range v {
			for _, earlier := range names {
				if strings.EqualFold(name, earlier) {
					t.Errorf("names %q and %q differ by case only", name, earlier)
				}
			}
			names = append(names, name)
			checkFolds(t, member)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// scalar sets v to the value of the variable, or else of the file, or else to the default; and checks
// it. Null is no value, and thus the default.
func (d *decoder) scalar(n *node, path []string, v reflect.Value, f field) {
	var text string
	var ok bool
	if len(d.named) > 0 && d.named[strings.Join(path, ".")] != "" {
		text, ok = d.variables.GetString(strings.Join(path, ".")), true
		d.places[joined(path)] = position{}
	} else if n.isNull() {
		text, ok = f.tag.Lookup("default")
	} else if text, ok = d.text(n, path, v, f); ok && f.kind == "path" && text != "" && !filepath.IsAbs(text) {
		text = filepath.Join(d.dir, text)
	}
	if !ok {
		return
	}
	problem := setText(v, f, text)
	if problem == "" && f.ranged {
		problem = outOfRange(v, f.tag)
	}
	if problem != "" {
		d.wrong(path, "%s", problem)
	}
}

// text returns the text of a value that is not null. ok is false if it has a mistake.
func (d *decoder) text(n *node, path []string, v reflect.Value, f field) (text string, ok bool) {
	found := n.what()
	if f.kind == "secret" {
		found = "another value"
	}
	form := formOf(v.Type())
	switch {
	case n.kind != yaml.ScalarNode:
	case v.Kind() == reflect.Bool:
		return d.flag(n, path)
	case form != "text": // a number too, even for a duration: the mistake is then the missing unit
		return n.value, true
	case n.tag == tagString, f.kind == "hex": // YAML may read hexadecimal digits as a number
		return n.value, true
	case n.tag != tagInt && n.tag != tagFloat && n.tag != tagBool && n.tag != tagTimestamp:
	case d.json || !d.plain: // the peer's YAML reader uses the text as written; encoding/json does not
		d.mismatch(n, path, "found %s, expected text: write it in quotes", found)
		return "", false
	default:
		d.caution(path, "found %s, expected text: it is taken as it is written here; write it in quotes", found)
		return n.value, true
	}
	d.mismatch(n, path, "found %s, expected %s", found, form)
	return "", false
}

// flag returns the text of a truth value.
func (d *decoder) flag(n *node, path []string) (text string, ok bool) {
	value, ok := n.truth()
	yes := slices.Contains([]string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}, n.value)
	switch no := slices.Contains([]string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}, n.value); {
	case ok:
	case !d.json && (yes || no):
		d.tolerated(n.at, path, "found %q, expected true or false", n.value)
		value = yes
	default:
		d.mismatch(n, path, "found %s, expected true or false", n.what())
		return "", false
	}
	return strconv.FormatBool(value), true
}

// formOf describes the values of a type of which one text is a value; "" for other types.
func formOf(t reflect.Type) string {
	switch reflect.Zero(t).Interface().(type) {
	case string, []byte, Secret:
		return "text"
	case bool:
		return "true or false"
	case int:
		return "a whole number"
	case int64:
		return "a size with its unit, such as 64MiB"
	case uint64:
		return "a whole number from 1 on"
	case float64:
		return "a number such as 0.01"
	case time.Duration:
		return "a duration with its unit, such as 10m"
	case time.Time:
		return "a time with its zone and whole seconds, such as 2026-11-08T00:00:00Z"
	case netip.Prefix:
		return "a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32"
	}
	return ""
}

// setText sets v to the value that text has for v's type. problem is "" or a sentence; v then stays.
func setText(v reflect.Value, f field, text string) (problem string) {
	before := reflect.ValueOf(v.Interface())
	var err error
	switch into := v.Addr().Interface().(type) {
	case *string:
		*into = text
	case *[]byte:
		*into = []byte(text)
		if f.kind == "hex" {
			if *into, err = hex.DecodeString(text); err != nil {
				return fmt.Sprintf("found %q, expected pairs of hexadecimal digits, in quotes, such as \"01ab\"", shorten(text))
			}
		}
	case *Secret:
		if *into = (Secret{}); text != "" {
			*into = Secret{&text}
		}
	case *bool:
		*into, err = strconv.ParseBool(text)
	case *int:
		*into, err = strconv.Atoi(text)
	case *int64:
		*into, err = sizeOf(text)
	case *uint64:
		if *into, err = strconv.ParseUint(text, 10, 63); *into == 0 {
			err = strconv.ErrRange
		}
	case *float64:
		*into, err = strconv.ParseFloat(text, 64)
	case *time.Duration:
		*into, err = time.ParseDuration(text)
	case *time.Time:
		// Certificates have no fractions of a second.
		if *into, err = time.Parse(time.RFC3339, strings.TrimSpace(text)); err == nil && into.Nanosecond() != 0 {
			err = strconv.ErrRange
		}
		*into = into.UTC()
	case *netip.Prefix:
		return setNetwork(into, text)
	}
	if err != nil {
		v.Set(before)
		return fmt.Sprintf("found %q, expected %s", shorten(text), formOf(v.Type()))
	}
	return ""
}

// sizeOf reads a number of bytes with a unit.
func sizeOf(text string) (int64, error) {
	for exponent, unit := range []string{"KiB", "MiB", "GiB"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 32)
			return int64(n) << (10 * (exponent + 1)), err
		}
	}
	return 0, strconv.ErrSyntax
}

// setNetwork reads a CIDR, or an address as a network of only that address. IPv4-mapped IPv6 is
// IPv4.
func setNetwork(into *netip.Prefix, text string) (problem string) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		*into = netip.PrefixFrom(addr, addr.BitLen())
		return ""
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Sprintf("found %q, expected %s", shorten(text), formOf(reflect.TypeOf(prefix)))
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	*into = prefix
	if prefix != prefix.Masked() {
		return fmt.Sprintf("%s has bits beyond its length: write %s for the network, or %s/%d for the one address",
			prefix, prefix.Masked(), prefix.Addr(), prefix.Addr().BitLen())
	}
	return ""
}

// outOfRange checks v by the tags oneof, min and max. problem is "" or a sentence.
func outOfRange(v reflect.Value, tag reflect.StructTag) (problem string) {
	if choices := strings.Fields(tag.Get("oneof")); len(choices) > 0 && !slices.Contains(choices, v.String()) {
		return fmt.Sprintf("found %q, expected one of %s%s", shorten(v.String()), strings.Join(choices, ", "), suggest.DidYouMean(v.String(), choices))
	}
	least, most := tag.Get("min"), tag.Get("max")
	switch value := v.Interface().(type) {
	case time.Duration:
		lower, _ := time.ParseDuration(least)
		if upper, err := time.ParseDuration(most); err == nil && (value < lower || value > upper) {
			return fmt.Sprintf("found %s, expected %s to %s", value, least, most)
		}
	case int64:
		lower, _ := sizeOf(least)
		if upper, err := sizeOf(most); err == nil && (value < lower || value > upper) {
			return fmt.Sprintf("found %d bytes, expected %s to %s", value, least, most)
		}
	case int:
		if lower, err := strconv.Atoi(least); err == nil && value < lower {
			return fmt.Sprintf("found %d, expected a number from %d on", value, lower)
		}
	}
	return ""
}

// jsonOf returns n as encoding/json writes it, with its numbers as they are written.
func (d *decoder) jsonOf(n *node) any {
	switch value, isTruth := n.truth(); {
	case n.kind == yaml.MappingNode:
		object := map[string]any{}
		for _, p := range n.pairs {
			object[p.key.value] = d.jsonOf(p.value)
		}
		return object
	case n.kind == yaml.SequenceNode:
		list := []any{}
		for _, item := range n.items {
			list = append(list, d.jsonOf(item))
		}
		return list
	case n.isNull():
		return nil
	case n.tag == tagString, n.tag == tagTimestamp:
		return n.value
	case isTruth:
		return value
	case (n.tag == tagInt || n.tag == tagFloat) && json.Valid([]byte(n.value)):
		return json.Number(n.value)
	}
	d.mistake(n.at, nil, "found %s, which JSON does not have: write it as JSON does, or in quotes", n.what())
	return nil
}

// Secret is a string that no log and no error shows.
//
// It holds a pointer because package fmt shows the fields of a struct, even with a Formatter, if a
// verb does not fit the surrounding value.
type Secret struct{ value *string }

// Reveal returns the secret itself, "" if there is none.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

const concealed = "(secret)"

// Format writes no part of the secret, for any verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, concealed) }

// LogValue returns the text that log/slog writes.
func (s Secret) LogValue() slog.Value { return slog.StringValue(concealed) }

// MarshalText returns the text that encoding/json and others write.
func (s Secret) MarshalText() ([]byte, error) { return []byte(concealed), nil }

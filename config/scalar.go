// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scalar reads a value that has a text.
func (d *decoder) scalar(n *node, v reflect.Value, tag reflect.StructTag) {
	text := n.value // also of a number, even for a duration: the mistake is then the missing unit
	switch v.Addr().Interface().(type) {
	case *string, *[]byte, *Secret:
		var ok bool
		if text, ok = d.text(n, tag); !ok {
			return
		}
	default:
		if n.isNull() {
			return
		}
		if n.kind != scalar {
			d.mistake(n.at, "found %s, expected %s", n.what(), formOf(v))
			return
		}
	}
	if tag.Get("kind") == "path" && text != "" && !filepath.IsAbs(text) {
		text = filepath.Join(d.dir, text)
	}
	if problem := setText(v, tag, text); problem != "" {
		d.mistake(n.at, "%s", problem)
	}
}

// text returns a string. Null is the empty string, as in the peer, and leaves a default.
func (d *decoder) text(n *node, tag reflect.StructTag) (text string, ok bool) {
	found := n.what()
	if tag.Get("kind") == "secret" {
		found = "another value"
	}
	switch {
	case n.kind != scalar:
		d.mistake(n.at, "found %s, expected text", found)
		return "", false
	case n.isNull():
		return "", tag.Get("default") == ""
	}
	switch n.tag {
	case tagString:
	case tagInt, tagFloat, tagBool, tagTimestamp:
		if tag.Get("kind") == "hex" { // YAML may read the digits as a number
			break
		}
		// The peer's YAML reader uses the text as written; encoding/json does not.
		if d.json || !d.plain {
			d.mistake(n.at, "found %s, expected text: write it in quotes", found)
			return "", false
		}
		d.warn(n.at, "found %s, expected text: it is taken as it is written here; write it in quotes", found)
	default:
		d.mistake(n.at, "found %s, expected text", found)
		return "", false
	}
	return n.value, true
}

// flag reads a truth value. Null is false.
func (d *decoder) flag(n *node, into *bool) {
	switch value, ok := n.truth(); {
	case n.isNull():
		*into = false
	case ok:
		*into = value
	case n.kind == scalar && !d.json && slices.Contains([]string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}, n.value):
		d.tolerated(n.at, "found %q, expected true or false", n.value)
		*into = true
	case n.kind == scalar && !d.json && slices.Contains([]string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}, n.value):
		d.tolerated(n.at, "found %q, expected true or false", n.value)
		*into = false
	default:
		d.mistake(n.at, "found %s, expected true or false", n.what())
	}
}

// formOf describes the values of v's type.
func formOf(v reflect.Value) string {
	switch v.Addr().Interface().(type) {
	case *bool:
		return "true or false"
	case *int:
		return "a whole number"
	case *uint64:
		return "a whole number from 1 on"
	case *time.Duration:
		return "a duration with its unit, such as 10m"
	case *time.Time:
		return "a time with its zone and whole seconds, such as 2026-11-08T00:00:00Z"
	case *netip.Prefix:
		return "a network as a CIDR, such as 10.0.0.0/8 or 2001:db8::/32"
	default:
		return "text"
	}
}

// setText sets v to the value that text has for v's type. problem is "" or a sentence; v then stays.
func setText(v reflect.Value, tag reflect.StructTag, text string) (problem string) {
	before := reflect.ValueOf(v.Interface())
	var err error
	switch into := v.Addr().Interface().(type) {
	case *string:
		if tag.Get("kind") == "hex" {
			if _, err := hex.DecodeString(text); err != nil {
				return fmt.Sprintf("found %q, expected pairs of hexadecimal digits, in quotes, such as \"01ab\"", shorten(text))
			}
		}
		*into = text
	case *[]byte:
		*into = []byte(text)
	case *Secret:
		if *into = (Secret{}); text != "" {
			*into = Secret{&text}
		}
	case *bool:
		*into, err = strconv.ParseBool(text)
	case *int:
		*into, err = strconv.Atoi(text)
	case *uint64:
		if *into, err = strconv.ParseUint(text, 10, 63); *into == 0 {
			err = strconv.ErrRange
		}
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
		return fmt.Sprintf("found %q, expected %s", shorten(text), formOf(v))
	}
	return ""
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
		return fmt.Sprintf("found %q, expected %s", shorten(text), formOf(reflect.ValueOf(into).Elem()))
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

// setDefaults gives the fields of a struct, and of the structs in it, their defaults.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for _, f := range (&decoder{}).fields(v.Type()) {
		if text, ok := f.tag.Lookup("default"); ok {
			if problem := setText(v.FieldByIndex(f.index), f.tag, text); problem != "" {
				panic("config: the default of " + f.yaml + ": " + problem) // a fault of the struct, which every test finds
			}
		} else {
			setDefaults(v.FieldByIndex(f.index))
		}
	}
}

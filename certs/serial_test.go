// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestNewSerial(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		serial, err := NewSerial(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(serial) != SerialNumberSize || serial[0] == 0 || serial[0] > 0x7f || seen[string(serial)] {
			t.Fatalf("serial number %x", serial)
		}
		seen[string(serial)] = true
	}
	random := func(first ...byte) io.Reader {
		return io.MultiReader(bytes.NewReader(first), bytes.NewReader(bytes.Repeat([]byte{0x55}, 30)))
	}
	rest := bytes.Repeat([]byte{0x55}, 19)
	for name, test := range map[string]struct {
		random io.Reader
		want   []byte
		err    string
	}{
		"top bit is cleared":        {random(0xff), append([]byte{0x7f}, rest...), ""},
		"zero is drawn again":       {random(0), append([]byte{0x55}, rest...), ""},
		"only the top bit: again":   {random(0x80), append([]byte{0x55}, rest...), ""},
		"only zeros":                {zeros{}, nil, "only zeros"},
		"no randomness":             {iotest.ErrReader(errors.New("no entropy")), nil, "no entropy"},
		"too little randomness":     {bytes.NewReader(rest), nil, "unexpected EOF"},
		"no randomness to go again": {bytes.NewReader(append([]byte{0}, rest...)), nil, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := NewSerial(test.random)
			checkError(t, err, test.err)
			if !bytes.Equal(got, test.want) {
				t.Errorf("serial number %x, want %x", got, test.want)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestSubjectKeyID(t *testing.T) {
	t.Parallel()
	// The key is from RFC 8032, section 7.1, test 1; the hash is from openssl sha256 over its 32
	// octets.
	spki, err := hex.DecodeString("302a300506032b6570032100" + "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	if err != nil {
		t.Fatal(err)
	}
	got, err := SubjectKeyID(spki)
	if want := "21fe31dfa154a261626bf854046fd2271b7bed4b"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("SubjectKeyID = %x, %v, want %s", got, err, want)
	}
	for name, der := range map[string]string{
		"nothing":     "",
		"no key":      "\x30\x02\x30\x00",
		"empty key":   "\x30\x05\x30\x00\x03\x01\x00",
		"no bits":     "\x30\x04\x30\x00\x03\x00",
		"unused bits": "\x30\x06\x30\x00\x03\x02\x01\x00",
		"more inside": "\x30\x08\x30\x00\x03\x02\x00\x01\x05\x00",
		"trailing":    "\x30\x06\x30\x00\x03\x02\x00\x01\x00",
	} {
		if got, err := SubjectKeyID([]byte(der)); err == nil {
			t.Errorf("%s: SubjectKeyID = %x", name, got)
		}
	}
}

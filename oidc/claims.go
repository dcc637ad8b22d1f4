// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Claims are the members of a JSON object, by their exact names. A value is a string, a Number, a
// bool, nil (JSON null), []any, or a nested Claims, which is the same type as map[string]any.
type Claims = map[string]any

// Number is the text of a JSON number as the token has it, so that the reader chooses the
// precision.
type Number string

// Limits on the shape of a JSON document from outside. Real tokens are two or three levels deep;
// the widest known token lists some hundreds of groups.
const (
	maxClaimsDepth  = 16
	maxClaimsValues = 4096
)

// ParseClaims decodes one JSON object strictly. Only white space may follow it. It must be valid
// UTF-8 without lone surrogates. No object at any level may have a member twice, or two members
// that differ by case only: encoding/json, which go-oidc uses, would take the last of them. It has at
// most MaxTokenSize bytes, 16 levels, and 4096 values.
//
// The errors are for the operator's log; they quote parts of the document.
func ParseClaims(document []byte) (Claims, error) {
	return new(claimsParser).parse(document)
}

// claimsParser walks the tokens of one document.
type claimsParser struct {
	text   string // the document
	buffer bytes.Buffer
	dec    jsontext.Decoder
	values int // number of values read
	// registered is the document without the members that go-oidc does not read, for the outermost object.
	registered []byte
}

// isRegistered reports whether go-oidc reads a member with this folded name.
func isRegistered(fold string) bool {
	switch fold {
	case "iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "at_hash", "_claim_names", "_claim_sources":
		return true
	}
	return false
}

// parse is ParseClaims.
func (p *claimsParser) parse(document []byte) (Claims, error) {
	if len(document) > MaxTokenSize {
		return nil, fmt.Errorf("JSON document of %d bytes exceeds the limit of %d", len(document), MaxTokenSize)
	}
	p.text, p.buffer, p.values, p.registered = string(document), *bytes.NewBuffer(document), 0, nil
	// The parser itself finds duplicates, together with names that differ by case.
	p.dec.Reset(&p.buffer, jsontext.AllowDuplicateNames(true))
	value, err := p.value(0)
	if err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	claims, ok := value.(Claims)
	if _, err := p.dec.ReadToken(); !ok || !errors.Is(err, io.EOF) {
		return nil, errors.New("the JSON document is not one object")
	}
	return claims, nil
}

// value reads the next value, which is inside depth objects and arrays.
func (p *claimsParser) value(depth int) (any, error) {
	kind := p.dec.PeekKind()
	container := kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray
	switch p.values++; {
	case p.values > maxClaimsValues || depth >= maxClaimsDepth && container:
		return nil, fmt.Errorf("there are more than %d values, or %d levels", maxClaimsValues, maxClaimsDepth)
	case kind == jsontext.KindString:
		return p.string()
	case kind == jsontext.KindNumber:
		text, err := p.scalar()
		return Number(text), err
	}
	token, err := p.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch kind {
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindBeginArray:
		elements := []any{}
		for p.dec.PeekKind() != jsontext.KindEndArray {
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			elements = append(elements, v)
		}
		_, err := p.dec.ReadToken()
		return elements, err
	case jsontext.KindBeginObject:
		return p.object(depth + 1)
	default: // no other token begins a value
		return token.Bool(), nil
	}
}

// scalar reads the next value, which must be a string or a number, and returns its part of text.
func (p *claimsParser) scalar() (string, error) {
	raw, err := p.dec.ReadValue()
	if err != nil {
		return "", err
	}
	end := p.dec.InputOffset()
	return p.text[end-int64(len(raw)) : end], nil
}

// string reads the next value, which must be a string. It is a part of text unless it has an escape.
func (p *claimsParser) string() (string, error) {
	raw, err := p.scalar()
	if err != nil {
		return "", err
	}
	if strings.IndexByte(raw, '\\') >= 0 {
		unquoted, err := jsontext.AppendUnquote(nil, raw)
		return string(unquoted), err
	}
	return raw[1 : len(raw)-1], nil
}

func (p *claimsParser) object(depth int) (Claims, error) {
	members := Claims{}
	if depth == 1 {
		members = make(Claims, min(len(p.text)/32, 32)) // CI systems write as many
	}
	// folded holds the folded forms of the names that differ from their folded form. Such names are
	// rare; all others are in members already.
	var folded map[string]bool
	for p.dec.PeekKind() != jsontext.KindEndObject {
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		fold := foldName(name)
		_, twice := members[fold]
		if twice || folded[fold] {
			return nil, fmt.Errorf("member %s occurs twice, or once more in another case", quote(name))
		}
		if fold != name {
			if folded == nil {
				folded = make(map[string]bool)
			}
			folded[fold] = true
		}
		begin := p.dec.InputOffset()
		if members[name], err = p.value(depth); err != nil {
			return nil, err
		}
		if depth == 1 && isRegistered(fold) {
			p.register(name, p.text[begin:p.dec.InputOffset()])
		}
	}
	_, err := p.dec.ReadToken()
	return members, err
}

// register adds a member to p.registered. value begins with its colon.
func (p *claimsParser) register(name, value string) {
	separator := byte(',')
	if p.registered == nil {
		p.registered, separator = make([]byte, 0, 256), '{'
	}
	p.registered, _ = jsontext.AppendQuote(append(p.registered, separator), name) // name is valid UTF-8
	p.registered = append(p.registered, value...)
}

// foldName returns one representative of all names that are equal under Unicode simple case
// folding, by which encoding/json compares names: "ISS", "iss" and "iſs" have the same one. For
// lower-case ASCII it returns name itself, at no cost.
func foldName(name string) string {
	for i := range len(name) {
		if c := name[i]; c >= 0x80 || 'A' <= c && c <= 'Z' {
			return strings.ToLower(strings.ToUpper(name))
		}
	}
	return name
}

// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The kinds of records.
const (
	KindIntent   = "intent"   // a certificate is about to be signed
	KindOutcome  = "outcome"  // what became of an intent
	KindDenial   = "denial"   // a caller with a verified token was refused before an intent
	KindRefusals = "refusals" // how many requests were refused without a record of their own
	KindStart    = "start"    // a server began to use the directory
	KindReload   = "reload"   // issuers or a CA set were loaded
	KindRotation = "rotation" // another authority signs
	KindShutdown = "shutdown" // the server stopped in order
	KindRecovery = "recovery" // the first record of a file that follows an incomplete one
)

// ReasonOK is the reason of an outcome with a certificate.
const ReasonOK = "OK"

const (
	// MaxRecord is the length in bytes of the longest record, with its newline.
	MaxRecord = 4096
	// maxHeader bounds what a record has before the fields that body encodes.
	maxHeader = 256
	// maxText is the length in bytes to which a text is cut at first, and maxClaim that of a claim.
	maxText  = 1024
	maxClaim = maxText / 4
	hashSize = 2 * sha256.Size // of a hash in hexadecimal digits
)

// Head is the last record of a chain: its sequence, and the SHA-256 of its line, in hexadecimal digits. The
// zero value is the head of an empty chain.
type Head struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
}

// Record is one record. Each kind has some of the fields. The JSON keys are stable, and docs/audit.md
// describes them. Hashes are SHA-256 in hexadecimal digits.
type Record struct {
	Sequence uint64    `json:"seq,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	Previous string    `json:"prev,omitempty"`
	Kind     string    `json:"kind,omitempty"`

	Intent           uint64            `json:"intent,omitempty"` // the sequence of an outcome's intent
	Reason           string            `json:"reason,omitempty"`
	RequestID        string            `json:"request_id,omitempty"`
	IssuerURL        string            `json:"issuer_url,omitempty"`
	Identity         string            `json:"identity,omitempty"` // the SAN, or its keyed hash
	Subject          string            `json:"subject,omitempty"`  // likewise
	Claims           map[string]string `json:"claims,omitempty"`
	Policy           string            `json:"policy,omitempty"` // its decision, where the entry has one
	Rule             string            `json:"rule,omitempty"`   // the rule that allowed the caller
	Token            string            `json:"token,omitempty"`  // the hash of the raw token
	TokenID          string            `json:"jti,omitempty"`
	Key              string            `json:"key,omitempty"` // the hash of the SubjectPublicKeyInfo
	Serial           string            `json:"serial,omitempty"`
	TBS              string            `json:"tbs,omitempty"` // the hash of the precertificate's TBS
	Authority        string            `json:"authority,omitempty"`
	ConfigGeneration uint64            `json:"config_generation,omitempty"`
	CAGeneration     uint64            `json:"ca_generation,omitempty"`
	Certificate      string            `json:"certificate,omitempty"` // its hash
	LogID            string            `json:"log_id,omitempty"`
	SCTTime          time.Time         `json:"sct_time,omitzero"`
	LeafIndex        *uint64           `json:"leaf_index,omitempty"`

	Version string            `json:"version,omitempty"`
	Host    string            `json:"host,omitempty"`
	PID     int               `json:"pid,omitempty"`
	Files   map[string]string `json:"files,omitempty"` // the hashes of files
	Refused map[string]uint64 `json:"refused,omitempty"`
	Dropped uint64            `json:"denials_dropped,omitempty"`
	File    string            `json:"file,omitempty"` // of a recovery: the file that ends with the record before
	Error   string            `json:"error,omitempty"`
	// Cut are the keys of the values of which the record has the beginning only.
	Cut []string `json:"cut,omitempty"`

	// Entry is the issuer entry, by which denials are limited. It is in no record.
	Entry string `json:"-"`
	// Values are all claims of the token, of which the record gets those that the operator names.
	Values map[string]any `json:"-"`
}

// body returns the record as JSON. The longer the record, the shorter its texts are cut: the claims first, so that
// they do not displace the caller's name.
func (r Record) body() []byte {
	for most, claim := maxText, maxClaim; ; claim /= 2 {
		if text, err := json.Marshal(r.cut(most, claim)); err == nil && len(text) <= MaxRecord-maxHeader {
			return text
		}
		if claim == 0 {
			most = most * 3 / 4
		}
	}
}

// cut returns the record with texts of at most most bytes, and claims of at most claim bytes.
func (r Record) cut(most, claim int) Record {
	for _, text := range []struct {
		key   string
		value *string
	}{
		{"request_id", &r.RequestID}, {"issuer_url", &r.IssuerURL}, {"identity", &r.Identity}, {"subject", &r.Subject}, {"rule", &r.Rule},
		{"jti", &r.TokenID}, {"authority", &r.Authority}, {"version", &r.Version}, {"host", &r.Host}, {"file", &r.File}, {"error", &r.Error},
	} {
		if len(*text.value) > most {
			*text.value = cut(*text.value, most)
			r.Cut = append(r.Cut, text.key)
		}
	}
	whole := r.Claims
	if whole != nil {
		r.Claims = make(map[string]string, len(whole))
	}
	for name, value := range whole {
		if r.Claims[name] = value; len(value) > claim {
			r.Claims[name] = cut(value, claim)
			r.Cut = append(r.Cut, "claims."+name)
		}
	}
	return r
}

// cut returns the beginning of a text, and a note of its length.
func cut(text string, most int) string {
	note := fmt.Sprintf("… (%d bytes)", len(text))
	return strings.ToValidUTF8(text[:max(most-len(note), 0)], "") + note
}

// claimsOf returns the claims that names lists: a text as it is, and another value as JSON.
func claimsOf(names []string, values map[string]any) (claims map[string]string) {
	for _, name := range names {
		value, ok := values[name]
		if !ok {
			continue
		}
		text, isText := value.(string)
		if !isText {
			b, _ := json.Marshal(value)         // it was JSON
			text = strings.Trim(string(b), `"`) // of a number, which is a type of text
		}
		if claims == nil {
			claims = make(map[string]string, len(names))
		}
		claims[name] = text
	}
	return claims
}

var errNoRecord = errors.New("the line is no record")

// parse reads a line, and returns the head that it makes.
func parse(line []byte) (r Record, head Head, err error) {
	text, whole := bytes.CutSuffix(line, []byte("\n"))
	if !whole || json.Unmarshal(text, &r) != nil || r.Sequence == 0 || len(r.Previous) != hashSize || r.Kind == "" {
		return Record{}, Head{}, errNoRecord
	}
	return r, Head{r.Sequence, hashOf(text)}, nil
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// noAnswer is the outcome of a request that lost its connection, or got none.
const noAnswer = "NO_ANSWER"

// state is what works around a server, and in it.
type state struct {
	logs    int  // logs that give an SCT in time
	signer  bool // the key signs
	server  bool // each server that clients may ask is up
	clock   bool // the server's clock is right
	audit   bool // the audit log can be written
	keyless bool // the tokens of flaky are signed with a key that it has never shown to the server
	flaky   bool // flaky shows its keys
	trusted bool // the issuer file has flaky
}

// healthy is the state without a fault.
var healthy = state{logs: 1, signer: true, server: true, clock: true, audit: true, flaky: true, trusted: true}

// right reports whether a request may end with reason while s holds. flaky is whether its token is one
// of the issuer that can have faults. Every reason that it does not name is wrong.
func (s state) right(reason string, flaky bool) bool {
	switch reason {
	case "":
		return true
	case "CT_UNAVAILABLE": // never while one log is up
		return s.logs == 0
	case "SIGNER_UNAVAILABLE":
		return !s.signer
	case "ISSUER_UNREACHABLE": // never for an issuer with keys that the server has
		return flaky && s.keyless && !s.flaky
	case "ISSUER_NOT_CONFIGURED":
		return flaky && !s.trusted
	case "CLOCK_WRONG":
		return !s.clock
	case "AUDIT_UNAVAILABLE":
		return !s.audit
	case noAnswer:
		return !s.server
	}
	return false
}

// change is the state from a time on.
type change struct {
	at time.Time
	state
}

// outcome is how one request ended.
type outcome struct {
	line       int // of the table
	flaky      bool
	begin, end time.Time
	reason     string // "" for a certificate
	message    string
	chain      []string // PEM
}

// right reports whether an outcome is right in one of the states that held while the request was under way.
func (o outcome) right(changes []change) bool {
	for i, c := range changes {
		over := i+1 < len(changes) && !changes[i+1].at.After(o.begin)
		if !over && !c.at.After(o.end) && c.right(o.reason, o.flaky) {
			return true
		}
	}
	return false
}

// leaves are the hashes of all entries of logs.
type leaves map[[sha256.Size]byte]bool

func (l leaves) add(entries []ct.RawLogEntry) error {
	for _, entry := range entries {
		hash, err := ct.LeafHashForLeaf(&entry.Leaf)
		if err != nil {
			return err
		}
		l[hash] = true
	}
	return nil
}

// find checks that the entry which the certificate's SCT promises is in a log.
func (l leaves) find(chain []string) error {
	var parsed []*ctx509.Certificate
	for _, text := range chain {
		der, err := pem.One([]byte(text), "CERTIFICATE")
		if err != nil {
			return err
		}
		certificate, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return err
		}
		parsed = append(parsed, certificate)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&parsed[0].SCTList)
	if err != nil || len(scts) != 1 {
		return fmt.Errorf("the certificate has %d SCTs: %w", len(scts), err)
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(parsed, scts[0].Timestamp)
	if err != nil {
		return err
	}
	leaf.TimestampedEntry.Extensions = scts[0].Extensions
	hash, err := ct.LeafHashForLeaf(leaf)
	if err == nil && !l[hash] {
		err = fmt.Errorf("the certificate %x is in no log", parsed[0].SerialNumber)
	}
	return err
}

func TestRight(t *testing.T) {
	t.Parallel()
	with := func(change func(*state)) state {
		s := healthy
		change(&s)
		return s
	}
	for _, test := range []struct {
		state  state
		flaky  bool
		reason string
		right  bool
	}{
		{healthy, false, "", true},
		{healthy, false, "INTERNAL", false},
		{healthy, false, "CT_UNAVAILABLE", false},
		{with(func(s *state) { s.logs = 0 }), false, "CT_UNAVAILABLE", true},
		{with(func(s *state) { s.logs = 0 }), false, "SIGNER_UNAVAILABLE", false},
		{healthy, false, "SIGNER_UNAVAILABLE", false},
		{with(func(s *state) { s.signer = false }), false, "SIGNER_UNAVAILABLE", true},
		{with(func(s *state) { s.signer = false }), false, noAnswer, false},
		{with(func(s *state) { s.server = false }), false, noAnswer, true},
		{with(func(s *state) { s.flaky = false }), true, "ISSUER_UNREACHABLE", false},
		{with(func(s *state) { s.flaky, s.keyless = false, true }), true, "ISSUER_UNREACHABLE", true},
		{with(func(s *state) { s.flaky, s.keyless = false, true }), false, "ISSUER_UNREACHABLE", false},
		{with(func(s *state) { s.keyless = true }), true, "ISSUER_UNREACHABLE", false},
		{with(func(s *state) { s.trusted = false }), true, "ISSUER_NOT_CONFIGURED", true},
		{with(func(s *state) { s.trusted = false }), false, "ISSUER_NOT_CONFIGURED", false},
		{with(func(s *state) { s.clock = false }), false, "CLOCK_WRONG", true},
		{with(func(s *state) { s.audit = false }), false, "AUDIT_UNAVAILABLE", true},
		{with(func(s *state) { s.audit = false }), false, "CLOCK_WRONG", false},
	} {
		if right := test.state.right(test.reason, test.flaky); right != test.right {
			t.Errorf("%+v: %q is right: %t, and %t is expected", test.state, test.reason, right, test.right)
		}
	}
}

// A request is judged by each state that held while it was under way, and by no other.
func TestRightAtATime(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	at := func(second int) time.Time { return begin.Add(time.Duration(second) * time.Second) }
	down := healthy
	down.logs = 0
	changes := []change{{at(0), healthy}, {at(10), down}, {at(20), healthy}}
	right := []bool{}
	for _, o := range [][2]int{{1, 9}, {1, 10}, {11, 12}, {19, 30}, {20, 30}, {21, 30}} {
		right = append(right, outcome{begin: at(o[0]), end: at(o[1]), reason: "CT_UNAVAILABLE"}.right(changes))
	}
	if want := []bool{false, true, true, true, false, false}; !slices.Equal(right, want) {
		t.Errorf("%v; %v is expected", right, want)
	}
}

// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"bytes"
	"crypto"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/test/testca"
)

// meddlingSigner calls meddle between its first and its second signature of a request.
type meddlingSigner struct {
	crypto.Signer
	meddle *atomic.Pointer[func()]
}

func (s meddlingSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := s.Signer.Sign(rand, digest, opts)
	if meddle := s.meddle.Swap(nil); meddle != nil {
		(*meddle)()
	}
	return signature, err
}

// Neither the clock nor a new set can come between the two signatures of one certificate. The test
// world checks that the certificate corresponds to the precertificate in the log.
func TestSwitchBetweenTwoSignatures(t *testing.T) {
	t.Parallel()
	for _, byClock := range []bool{true, false} {
		var offset atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		pending := new(atomic.Pointer[func()])
		w := testca.New(t, testca.Builder{Now: clock, Wrap: func(inner crypto.Signer) crypto.Signer { return meddlingSigner{inner, pending} }})
		other := testca.New(t, testca.Builder{}).Authority
		begin := w.Authority.Chain().NotBefore
		// replace puts a set in force in which the other authority begins to sign at a time.
		replace := func(generation uint64, at time.Time) {
			next, err := set.New(generation, []set.Member{
				{ID: "old", Chain: w.Authority.Chain(), Authority: w.Authority, PublishAt: begin, ActivateAt: begin},
				{ID: "next", Chain: other.Chain(), Authority: other, PublishAt: begin, ActivateAt: at},
			})
			if err != nil {
				t.Error(err)
			}
			w.Set.Store(next)
		}
		replace(2, time.Now().Add(2*time.Minute))
		meddle := func() { offset.Store(int64(3 * time.Minute)) }
		if !byClock {
			meddle = func() { replace(3, begin.Add(time.Second)) }
		}
		pending.Store(&meddle)
		issued, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(issued.Chain.DER[0], w.Authority.Chain().DER[0]) {
			t.Error("the certificate comes with another authority's chain")
		}
		if active, err := w.Set.Load().Active(clock()); err != nil || active != other {
			t.Errorf("there was no switch (by the clock: %t): %v", byClock, err)
		}
	}
}

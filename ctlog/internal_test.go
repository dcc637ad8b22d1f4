// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// Every SCT that a log's JSON gives can be encoded, unless a field is too long.
func FuzzParseAddChainResponse(f *testing.F) {
	good, err := json.Marshal(ct.AddChainResponse{
		ID: make([]byte, 32), Timestamp: 1793836800123, Extensions: "AAAFAAAAAAE=", Signature: []byte{4, 3, 0, 2, 0x30, 0},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, body []byte) {
		sct, err := parseAddChainResponse(body)
		if err != nil || len(sct.Extensions) > 1<<16-1 {
			return
		}
		b, err := sct.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseSCT(b)
		if err != nil || back.LogID != sct.LogID || back.Timestamp != sct.Timestamp || !bytes.Equal(back.Extensions, sct.Extensions) || !bytes.Equal(back.Signature, sct.Signature) {
			t.Errorf("%+v became %+v: %v", sct, back, err)
		}
	})
}

// A log's signature makes no other extension acceptable.
func TestVerifyExtensions(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, extensions := range map[string]string{
		"good, none": "", "good, a leaf index": "\x00\x00\x05\x00\x00\x00\x00\x01", "unknown": "\x01\x00\x00", "another type": "\x01\x00\x05\x00\x00\x00\x00\x01",
		"4 bytes": "\x00\x00\x04\x00\x00\x00\x00", "and another": "\x00\x00\x05\x00\x00\x00\x00\x01\x01\x00\x00", "cut": "\x00\x00\x05\x00", "half": "\x00",
	} {
		now, sub := time.UnixMilli(1793836800123), Submission{TBS: []byte("tbs")}
		sct := SCT{LogID: key.LogID(), Timestamp: 1793836800123, Extensions: []byte(extensions)}
		signed, err := signedData(sct, sub)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(signed)
		if sct.Signature, err = ecdsa.SignASN1(rand.Reader, private, digest[:]); err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(sct, sub, now); (err == nil) != strings.HasPrefix(name, "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// named is a Log that has only a name.
type named struct {
	Log
	name string
}

func (n named) Name() string { return n.name }

func TestOrder(t *testing.T) {
	t.Parallel()
	// o is open, h half-open, r half-open and resting, f has failed four times.
	for states, want := range map[string]string{
		"c c c": "c0 c1 c2",
		"o c c": "c1 c2 o0",
		"f c c": "f0 c1 c2",
		"c c h": "h2 c0 c1",
		"h h c": "h0 c2 h1", // one probe at a time
		"o o o": "o0 o1 o2",
		"o h o": "h1 o0 o2",
		"r c h": "h2 c1 r0",
		"r o":   "r0 o1",
		"h":     "h0",
		"o":     "o0",
	} {
		t.Run(states, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			l := &Logs{now: time.Now}
			for i, state := range strings.Fields(states) {
				m := &member{Log: named{name: fmt.Sprint(state, i)}, breaker: &breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest}}
				failures, at, rest := breakerThreshold, now, time.Duration(0)
				switch state {
				case "c":
					failures = 0
				case "f":
					failures--
				case "h":
					at = now.Add(-probeInterval)
				case "r":
					at, rest = now.Add(-probeInterval), 10*time.Second
				}
				for range failures {
					m.breaker.Failed(at, errors.New("no"), rest)
				}
				l.logs = append(l.logs, m)
			}
			var got []string
			for _, turn := range l.order(now) {
				got = append(got, turn.Name())
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPauseAfter(t *testing.T) {
	t.Parallel()
	again := func(after time.Duration) error {
		return fmt.Errorf("once: %w", &RetryableError{After: after, Err: errors.New("busy")})
	}
	for range 100 {
		for attempts, most := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 300 * time.Millisecond, 3: 900 * time.Millisecond} {
			if got := pauseAfter(again(0), attempts); got < most/2 || got > most {
				t.Errorf("after attempt %d the pause is %s, want %s to %s", attempts, got, most/2, most)
			}
		}
	}
	if got := pauseAfter(again(3*time.Second), 1); got != 3*time.Second {
		t.Errorf("Retry-After 3 s became %s", got)
	}
	if got := pauseAfter(again(24*time.Hour), 1); got != maxRest {
		t.Errorf("Retry-After of a day became %s", got)
	}
	if got := pauseAfter(errors.New("no"), 1); got >= 0 {
		t.Errorf("a final failure is to be repeated after %s", got)
	}
}

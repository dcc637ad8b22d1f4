// SPDX-License-Identifier: Apache-2.0

// Package load measures a server in a process of its own, under the load of a generator in another
// one: CPU time per certificate beside the floor, latency, throughput and memory. `make bench-server`
// runs it and prints a table; without MAYFLY_LOAD=1 only a short test of all its parts runs. All
// processes are on loopback addresses.
package load

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// TestEveryKind sends a few requests of each kind, in a closed and in an open loop, and verifies
// the certificates as a client does.
func TestEveryKind(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, test := range []struct {
		setting setting
		kinds   [][2]string
	}{
		{setting{curve: "p256"}, [][2]string{{restV2, email}, {restV1, ci}, {overG, email}}},
		{setting{curve: "p384", embedded: true, onePort: true}, [][2]string{{restV2, ci}, {restV1, email}, {overG, ci}}},
	} {
		server, _ := b.serveProfiled(test.setting, processor) // starts sooner: it needs no build
		for _, kind := range test.kinds {
			api, token := kind[0], kind[1]
			before := cpu(t, server.pid)
			closed := b.run(server, job{API: api, Requests: b.requests[token], Clients: 2, Count: 10, Keep: 2})
			open := b.run(server, job{API: api, Requests: b.requests[token], Clients: 2, Count: 10, Rate: 100})
			if closed.Answers != 10 || open.Answers != 10 || len(closed.Kept) != 2 || cpu(t, server.pid) <= before {
				t.Errorf("%s: %d and %d answers, %d kept; 10, 10 and 2 are expected, and CPU time", kind, closed.Answers, open.Answers, len(closed.Kept))
			}
			if open.Elapsed < 90*time.Millisecond {
				t.Errorf("%s: ten requests at 100 a second took %s", kind, open.Elapsed)
			}
			for _, answer := range closed.Kept {
				if err := verify(server, api, answer); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		}
		b.startStub(server, email)
		b.slice = 50 * time.Millisecond
		for _, api := range []string{restV2, overG} {
			if cost := b.costOfFloor(api, email, test.setting.curve, 100); cost < 10 {
				t.Errorf("a pass of the floor takes %.1f µs", cost)
			}
		}
	}
}

// The load is for this machine only.
func TestTargetIsOnThisMachine(t *testing.T) {
	t.Parallel()
	for target, expected := range map[string]string{
		"http://127.0.0.1:5555": "127.0.0.1:5555", "http://localhost:5555": "localhost:5555", "http://[::1]:5555/": "[::1]:5555",
		"http://10.0.0.1:5555": "", "http://ca.example:5555": "", "https://127.0.0.1:5555": "", "http://127.0.0.1": "", "127.0.0.1:5555": "",
	} {
		if address, err := loopbackTarget(target); address != expected || (err == nil) != (expected != "") {
			t.Errorf("%s: %q, %v; %q is expected", target, address, err, expected)
		}
	}
}

// A sample of a profile belongs to the innermost package outside of the standard library.
func TestSampleOfAProfile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ sample, owner, column, step string }{
		{`
      20us   runtime.mallocgc
             crypto/ecdsa.SignASN1
             github.com/mayfly-ca/mayfly/certs.Algorithm.Sign
             slices.SortFunc[go.shape.[]github.com/mayfly-ca/mayfly/certs.Oid]
             github.com/mayfly-ca/mayfly/ca.(*draft).finish
             github.com/mayfly-ca/mayfly/ca.(*CA).Issue
             net/http.(*conn).serve
`, "certs", "allocation", "ca.(*CA).Issue > ca.(*draft).finish"},
		{`
     bytes:  16B
      20us   crypto/rsa.VerifyPKCS1v15
             github.com/go-jose/go-jose/v4.verify
             github.com/mayfly-ca/mayfly/server.(*Server).Serve
             net/http.(*conn).serve
`, "github.com/go-jose/go-jose/v4", "cryptography", "server.(*Server).Serve"},
		{`
      20us   runtime.scanobject
             runtime.gcBgMarkWorker
`, "(runtime.gcBgMarkWorker)", "allocation", "(runtime.gcBgMarkWorker)"},
	} {
		amount, stack := parseSample(test.sample)
		owner, column := attribute(stack)
		if amount != 20 || owner != test.owner || column != test.column || step(stack) != test.step {
			t.Errorf("%.0f, %s, %s, %s; 20, %s, %s, %s are expected", amount, owner, column, step(stack), test.owner, test.column, test.step)
		}
	}
}

// verify verifies an answer as a client does.
func verify(s *instance, api string, answer []byte) error {
	text, err := chainOf(api, answer)
	if err != nil {
		return err
	}
	return testworld.VerifyChain(text, s.root, pem.Encode("PUBLIC KEY", s.logKey))
}

// chainOf returns the PEM chain in an answer.
func chainOf(api string, answer []byte) ([]byte, error) {
	var chain []string
	switch api {
	case restV1:
		return answer, nil
	case overG:
		if err := json.Unmarshal(answer, &chain); err != nil {
			return nil, err
		}
	default:
		var body struct {
			Embedded struct {
				Chain struct {
					Certificates []string `json:"certificates"`
				} `json:"chain"`
			} `json:"signedCertificateEmbeddedSct"`
		}
		if err := json.Unmarshal(answer, &body); err != nil {
			return nil, err
		}
		chain = body.Embedded.Chain.Certificates
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("the answer has no chain: %s", answer)
	}
	var text []byte
	for _, c := range chain {
		text = append(append(text, c...), '\n')
	}
	return text, nil
}

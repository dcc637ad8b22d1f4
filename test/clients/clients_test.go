// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"testing"
)

// TestClients is the suite. Each subtest is one thing that a user of a client does, or one
// refusal that a user relies on.
func TestClients(t *testing.T) {
	w := newWorld(t)
	for _, client := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"sigstore-go", testSigstoreGo},
		{"cosign 3", testCosign3},
		{"cosign 2", testCosign2},
		{"npm", testNPM},
	} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			client.test(t, w)
		})
	}
}

// check is one named check of a client's table.
type check struct {
	name string
	test func(*testing.T, *world)
}

func runChecks(t *testing.T, w *world, checks []check) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, w)
		})
	}
}

// blob is the signed content where the content does not matter.
var blob = []byte("the quick brown fox\n")

// tampered returns blob with one bit changed.
func tampered() []byte {
	b := bytes.Clone(blob)
	b[4] ^= 1
	return b
}

// blobSHA256 is blob's digest.
const blobSHA256 = "6e459fed18ddb06d57c8e9f0d000c302c7e01389926db6e89884bfbe91a2a5df"

// statement is an in-toto statement about blob.
const statement = `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.org/test/v1","predicate":{},` +
	`"subject":[{"name":"blob","digest":{"sha256":"` + blobSHA256 + `"}}]}`

func trim(b []byte) string { return string(bytes.TrimSpace(b)) }

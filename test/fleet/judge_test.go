// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// status is what the ops listener states, as far as replicas must agree in it.
type status struct {
	Status        string
	ConfigSHA256  string                             `json:"config_sha256"`
	SetGeneration int                                `json:"ca_set_generation"`
	Authorities   []struct{ Name, State, Since any } // Since differs
}

func (f *fleet) status(s *server) (answer status) {
	text, err := get(f.t.Context(), "http://"+s.ops+"/status")
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		f.t.Error(err)
	}
	for i := range answer.Authorities {
		answer.Authorities[i].Since = nil
	}
	return answer
}

// requestFrom requests a certificate from a replica itself.
func (f *fleet) requestFrom(s *server, token string) error {
	c, err := client.New(client.Config{URL: "http://" + s.http})
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	_, err = c.SigningCertificate(f.t.Context(), client.Request{IDToken: token, Signer: key})
	return err
}

// judge stops the clients. It requires that no request failed, that the replicas agree, and that each certificate
// verifies and is in a log. activate is when all replicas changed to the new authority.
func (f *fleet) judge(activate time.Time) {
	f.t.Helper()
	f.stop()
	f.clients.Wait()
	f.t.Logf("%d replicas, %d clients, %d requests/s:\n%s", len(f.replicas), theForm().clients, theForm().rate, f.table())
	if full() {
		f.t.Logf("failures of first attempts:\n%s", f.failures())
	}
	for _, o := range f.outcomes {
		if o.chain == nil {
			f.t.Errorf("%s: a request failed twice: %v", f.events[o.event-1].name, o.failures)
			continue
		}
		next := issuer(o) == "next intermediate"
		if next && o.end.Before(activate) || !next && o.asked.After(activate) {
			f.t.Errorf("%s signed a certificate that was requested at %s, and the new authority signs from %s", issuer(o), o.asked, activate)
		}
	}
	f.agree()
	f.prove()
	if !full() {
		return
	}
	mayfly := must(binary())(f.t)
	for _, replica := range f.replicas {
		for _, args := range [][]string{{"status", "--url", "http://" + replica.ops}, {"audit", "verify", filepath.Join(replica.dir, "audit")}} {
			if out, err := exec.Command(mayfly, args...).CombinedOutput(); err != nil {
				f.t.Errorf("mayfly %s, of %s: %v\n%s", strings.Join(args, " "), replica.name, err, out)
			}
		}
	}
}

// agree requires that all replicas answer the same.
func (f *fleet) agree() {
	f.t.Helper()
	var first map[string]string
	for _, replica := range f.replicas {
		found := map[string]string{"/status": fmt.Sprintf("%+v", f.status(replica))}
		for _, path := range []string{"/api/v2/trustBundle", "/api/v2/configuration", "/trusted_root.json", "/signing_config.v0.2.json"} {
			var compact bytes.Buffer // protojson puts spaces where the build of a binary has them, and replica c runs another one
			f.must(json.Compact(&compact, must(get(f.t.Context(), "http://"+replica.http+path))(f.t)))
			found[path] = compact.String()
		}
		metrics := must(get(f.t.Context(), "http://"+replica.ops+"/metrics"))(f.t)
		for line := range strings.Lines(string(metrics)) {
			if strings.HasPrefix(line, "mayfly_ca_set_generation ") || strings.HasPrefix(line, "mayfly_ca_authority_state{") {
				found["/metrics"] += line
			}
		}
		if first == nil {
			first = found
		}
		for path := range first {
			if found[path] != first[path] || found[path] == "" {
				f.t.Errorf("%s of %s differs from that of %s:\n%s\n%s", path, replica.name, f.replicas[0].name, found[path], first[path])
			}
		}
	}
	if !strings.Contains(first["/metrics"], "mayfly_ca_set_generation 2\n") {
		f.t.Errorf("the metrics of all replicas are %s", first["/metrics"])
	}
}

// prove verifies each certificate with the trusted root of a replica, and finds what its SCT promises in a log.
func (f *fleet) prove() {
	f.t.Helper()
	var trusted struct {
		CTLogs                 []struct{ PublicKey struct{ RawBytes []byte } }
		CertificateAuthorities []struct {
			CertChain struct{ Certificates []struct{ RawBytes []byte } }
		}
	}
	f.must(json.Unmarshal(must(get(f.t.Context(), "http://"+f.replicas[1].http+"/trusted_root.json"))(f.t), &trusted))
	chain := trusted.CertificateAuthorities[0].CertChain.Certificates
	root := must(x509.ParseCertificate(chain[len(chain)-1].RawBytes))(f.t)
	promised, logged := map[[sha256.Size]byte]bool{}, map[[sha256.Size]byte]bool{}
	used := make([]int, len(trusted.CTLogs))
	for _, o := range f.outcomes {
		if o.chain == nil {
			continue
		}
		verified := slices.IndexFunc(trusted.CTLogs, func(log struct{ PublicKey struct{ RawBytes []byte } }) bool {
			return testworld.VerifyChain([]byte(strings.Join(o.chain, "\n")), root, pem.Encode("PUBLIC KEY", log.PublicKey.RawBytes)) == nil
		})
		if verified < 0 {
			f.t.Errorf("a certificate of %s does not verify with the trusted root", issuer(o))
			continue
		}
		used[verified]++
		promised[must(leafHash(o.chain))(f.t)] = true
	}
	f.await("every certificate in a log", func() bool {
		for _, log := range f.logs {
			f.read(log, logged)
		}
		for hash := range promised {
			if !logged[hash] {
				return false
			}
		}
		return true
	})
	f.t.Logf("%d certificates verify with the trusted root, and are among the %d entries of %d logs; SCTs of each: %d",
		len(promised), len(logged), len(f.logs), used)
}

// read adds the hashes of the entries that a log has published.
func (f *fleet) read(log *ctLog, into map[[sha256.Size]byte]bool) {
	f.t.Helper()
	key := must(ctlog.ParsePublicKey(log.key))(f.t)
	source, _, err := reader.Open(f.t.Context(), reader.Config{URL: log.reads, Key: key})
	f.must(err)
	firsts := func(yield func(uint64) bool) {
		for first := uint64(0); first < source.Head.Size; first += reader.Batch {
			if !yield(first) {
				return
			}
		}
	}
	for entries, err := range source.Batches(f.t.Context(), firsts) {
		f.must(err)
		for _, entry := range entries {
			into[[sha256.Size]byte(entry.Hash())] = true
		}
	}
}

// leafHash returns the hash of the entry that the certificate's SCT promises.
func leafHash(chain []string) (hash [sha256.Size]byte, err error) {
	var parsed []*ctx509.Certificate
	for _, text := range chain {
		der, err := pem.One([]byte(text), "CERTIFICATE")
		if err != nil {
			return hash, err
		}
		certificate, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return hash, err
		}
		parsed = append(parsed, certificate)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&parsed[0].SCTList)
	if err != nil || len(scts) != 1 {
		return hash, fmt.Errorf("the certificate has %d SCTs: %w", len(scts), err)
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(parsed, scts[0].Timestamp)
	if err != nil {
		return hash, err
	}
	leaf.TimestampedEntry.Extensions = scts[0].Extensions
	return ct.LeafHashForLeaf(leaf)
}

// issuer returns the name of the authority that signed a certificate; "" for none.
func issuer(o outcome) string {
	if len(o.chain) < 2 {
		return ""
	}
	certificates, err := pem.Certificates([]byte(o.chain[1]))
	if err != nil {
		return ""
	}
	return certificates[0].Subject.CommonName
}

// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// active is the authority that signs at the start.
func (m *machine) active() string {
	m.t.Helper()
	keys := must(filepath.Glob(m.path("ca", "*", "pass")))(m.t)
	for _, key := range keys {
		if id := filepath.Base(filepath.Dir(key)); id != "root" {
			return id
		}
	}
	m.t.Fatal("there is no authority")
	return ""
}

// issuedBy is the common name of the authority that signed a new certificate.
func (m *machine) issuedBy() string {
	m.t.Helper()
	chain := m.issues("2026")
	return must(pem.Certificates([]byte(strings.Join(chain, "\n"))))(m.t)[0].Issuer.CommonName
}

// The key is gone: the script creates another authority, and a running server signs with it.
func TestKeyLost(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	before := m.issues("2026")
	m.server.Kill()
	if err := os.Remove(m.path("ca", m.active(), "key.pem")); err != nil {
		t.Fatal(err)
	}
	config := m.path("mayfly.yaml")
	m.runbook(2, "ca-key-lost.sh", "-c", config)
	m.runbook(0, "ca-key-lost.sh", "-n", "-c", config, "-r", m.path("ca", "root"), "-i", "next", "-o", m.path("out"))
	if set := m.read("ca/ca.yaml"); strings.Contains(set, "next") {
		t.Error("a dry run changes the CA set")
	}
	m.runbook(0, "ca-key-lost.sh", "-c", config, "-r", m.path("ca", "root"), "-i", "next", "-o", m.path("out"), "-w", "0")
	m.start()
	m.ready()
	if name := m.issuedBy(); !strings.Contains(name, "next") {
		t.Errorf("the authority %q signs", name)
	}
	m.verifies(before, "2026")
	if n := strings.Count(m.read("out/trusted_root.json"), `"certChain"`); n != 2 {
		t.Errorf("the trust root has %d authorities, want both", n)
	}
}

// The key leaked: the running server stops using it, signs with another, and a forged certificate is found.
func TestKeyLeaked(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	old := m.active()
	m.start()
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	// The thief signs with a copy of the key, without the audit log.
	config := m.read("mayfly.yaml")
	m.rewrite("mayfly.yaml", "audit: {dir: audit}\n", "")
	m.start()
	m.ready()
	m.issues("2026")
	m.server.Stop(m.t)
	m.write("mayfly.yaml", config)
	m.start()
	m.ready()
	m.issues("2026")

	leaked := []string{"-c", m.path("mayfly.yaml"), "-a", old, "-t", "1h", "-i", "next", "-o", m.path("out")}
	m.runbook(1, "ca-key-leaked.sh", append(leaked, "-r", m.path("offline"))...)
	if name := m.issuedBy(); strings.Contains(name, "next") || strings.Contains(m.read("ca/ca.yaml"), "compromised") {
		t.Errorf("without the folder of the root, %q signs, and the set is:\n%s", name, m.read("ca/ca.yaml"))
	}
	m.mayfly("ca", "retire", "--set", m.path("ca"), old, "--compromised", "--since", "1h") // by a run that stopped there
	out := m.runbook(1, "ca-key-leaked.sh", append(leaked, "-r", m.path("ca", "root"))...)
	if !strings.Contains(out, "no intent: entry 1 ") || strings.Contains(out, "no intent: entry 0 ") {
		t.Errorf("the forged certificate alone is expected:\n%s", out)
	}
	if n := strings.Count(m.read("out/log-2026.jsonl"), "\n"); n != 4 {
		t.Errorf("%d certificates are listed", n)
	}
	m.await("an authority that signs", func() bool { // none does until the server has read what follows the retirement
		_, reason := m.request()
		return reason == ""
	})
	m.await("a certificate of the next authority", func() bool { return strings.Contains(m.issuedBy(), "next") })
	bundle := m.get("http://" + m.http + "/api/v2/trustBundle")
	chain := strings.ReplaceAll(strings.TrimSpace(m.read("ca/"+old+"/chain.pem")), "\n", `\n`)
	if intermediate, _, _ := strings.Cut(chain, `\n-----END`); bundle == "" || strings.Contains(bundle, intermediate) {
		t.Errorf("the trust bundle still has the authority %s: %s", old, bundle)
	}
}

// The certificate ends soon: the next authority is published and signs in a day.
func TestRotation(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	m.runbook(0, "ca-rotate.sh", "-c", m.path("mayfly.yaml"), "-r", m.path("ca", "root"), "-i", "next", "-o", m.path("out"))
	m.await("a bundle with both", func() bool {
		return strings.Count(m.get("http://"+m.http+"/api/v2/trustBundle"), `"certificates"`) == 2
	})
	if name := m.issuedBy(); strings.Contains(name, "next") {
		t.Error("the next authority signs already")
	}
	status := m.mayfly("ca", "status", "--set", m.path("ca"), "--at", "+26h")
	if !strings.Contains(status, "next  active") && !strings.Contains(strings.Join(strings.Fields(status), " "), "next active") {
		t.Errorf("in 26 hours: %s", status)
	}
	m.runbook(1, "ca-rotate.sh", "-c", m.path("mayfly.yaml"), "-r", m.path("ca", "root"), "-i", "soon", "-t", "+1h", "-o", m.path("out"))
	m.runbook(0, "ca-rotate.sh", "-c", m.path("mayfly.yaml"), "-i", "soon", "-t", "+50h", "-o", m.path("out"))
}

// The key gets another password while the server runs. A restart opens it; a wrong change is taken back.
func TestKeyPassword(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.start()
	m.ready()
	id := m.active()
	before := m.read("ca/" + id + "/pass")
	m.runbook(0, "key-password.sh", "-n", "-c", m.path("mayfly.yaml"), "-a", id)
	if m.read("ca/"+id+"/pass") != before {
		t.Error("a dry run changes the password")
	}
	m.runbook(0, "key-password.sh", "-c", m.path("mayfly.yaml"), "-a", id)
	if m.read("ca/"+id+"/pass") == before {
		t.Error("the password is the old one")
	}
	m.issues("2026")
	m.server.Stop(m.t)
	m.start()
	m.ready()
	m.issues("2026")
	m.runbook(1, "key-password.sh", "-c", m.path("mayfly.yaml"), "-a", id) // the old files are there
	m.runbook(1, "key-password.sh", "-c", m.path("mayfly.yaml"), "-a", "missing")
}

// A renewed certificate of the listeners is taken over; one that does not fit its key changes nothing.
func TestTLSRenewal(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "tls: {certificate: tls/cert.pem, key: tls/key.pem}\n")
	m.keyPair("tls", 1)
	m.keyPair("new", 2)
	m.start()
	serial := func() string {
		conn, err := tls.Dial("tcp", m.http, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return ""
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	m.await("a server", func() bool { return serial() != "" })
	first := serial()
	m.runbook(1, "tls-renew.sh", "-c", m.path("mayfly.yaml"), m.path("new", "cert.pem"), m.path("tls", "key.pem"))
	if _, err := os.Stat(m.path("tls", "key.pem.old")); err == nil {
		t.Error("a certificate that does not fit changed the files")
	}
	m.runbook(0, "tls-renew.sh", "-c", m.path("mayfly.yaml"), m.path("new", "cert.pem"), m.path("new", "key.pem"))
	m.await("the new certificate", func() bool { return serial() != first && serial() != "" })
}

// keyPair writes a certificate and its key as files for TLS.
func (m *machine) keyPair(folder string, serial int64) {
	m.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(m.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"ca.example"}}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(m.t)
	if err := os.Mkdir(m.path(folder), 0o700); err != nil {
		m.t.Fatal(err)
	}
	m.write(folder+"/cert.pem", string(pem.Encode("CERTIFICATE", der)))
	m.write(folder+"/key.pem", string(pem.Encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(m.t))))
}

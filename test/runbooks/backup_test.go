// SPDX-License-Identifier: Apache-2.0

package runbooks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// A backup under issuance, the loss of the machine, and a restore on another one: the trust bundle is the same, old
// certificates verify and are in the log, the audit log is whole, and the log never signs another history.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	backups := t.TempDir()
	first, second := filepath.Join(backups, "1"), filepath.Join(backups, "2")
	m.start()
	m.ready()
	m.runbook(0, "backup.sh", "-n", "-c", m.path("mayfly.yaml"), first)
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run creates the backup: %v", err)
	}
	old := make([][]string, 20)
	for i := range old {
		old[i] = m.issues("2026")
	}
	end := m.load()
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), first+"/")
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), "-p", first, second)
	m.runbook(1, "backup.sh", "-c", m.path("mayfly.yaml"), second)
	sums := exec.Command("sha256sum", "--quiet", "-c", "SHA256SUMS")
	sums.Dir = first
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("the second backup changes the first one, whose tiles it links: %v\n%s", err, out)
	}
	kept := must(filepath.Glob(second + "/ca/root*"))(t)
	guards := must(filepath.Glob(second + "/guard/*"))(t)
	if len(kept)+len(guards) > 0 {
		t.Errorf("the backup has %s, %s", kept, guards)
	}
	m.issues("2026") // what is lost
	end()
	bundle := m.get("http://" + m.http + "/api/v2/trustBundle")
	last := m.head("2026")
	m.server.Kill()
	for _, name := range []string{"mayfly.yaml", "issuers.yaml", "ca", "ctlog", "guard", "audit", "ctlog-2026.key"} {
		if err := os.Rename(m.path(name), filepath.Join(t.TempDir(), "lost")); err != nil {
			t.Fatal(err)
		}
	}

	m.dir = t.TempDir()
	config := m.path("mayfly.yaml")
	m.runbook(0, "restore.sh", "-c", config, second)
	m.runbook(1, "restore.sh", "-c", config, second) // nothing is replaced
	out := m.runbook(1, "ctlog-new.sh", "-c", config, "-l", "2026b", "-o", m.path("out"))
	if !strings.Contains(out, "its guard") || !strings.Contains(out, `name: "2026b"`) {
		t.Errorf("ctlog-new.sh states neither the refusal nor the entry to add:\n%s", out)
	}
	m.rewrite("mayfly.yaml", "  logs:\n", `  logs:
    - embedded: {name: "2026b", dir: ctlog/2026b, guard: guard/2026b.json, key: ctlog-2026b.key, origin: ca.example/ctlog/2026b}
`)
	m.runbook(0, "ctlog-new.sh", "-c", config, "-l", "2026b", "-o", m.path("out"))
	m.write("ctlog-2026b.pub", m.read("out/ctlog-2026b.pub"))
	m.write("ctlog-2026.pub", string(must(os.ReadFile(filepath.Join(m.Dir, "ctlog-2026.pub")))(t)))
	fsck := exec.Command(must(program())(t), "ctlog", "fsck", "--config", config, "--name", "2026")
	fsck.Env = environment()
	if out, _ := fsck.CombinedOutput(); !strings.Contains(string(out), "its guard") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("fsck has another finding than the missing guard:\n%s", out)
	}
	if n := strings.Count(m.read("out/trusted_root.json"), `"logId"`); n != 2 {
		t.Errorf("the trust root has %d logs, want the lost one and the new one", n)
	}
	m.start()
	m.ready()
	for range 3 {
		m.issues("2026b")
	}
	if now := m.get("http://" + m.http + "/api/v2/trustBundle"); now != bundle || now == "" {
		t.Errorf("the trust bundle is %s, and was %s", now, bundle)
	}
	for _, chain := range old {
		m.verifies(chain, "2026")
		m.included(chain, "2026")
	}
	restored := m.head("2026")
	if restored.TreeSize > last.TreeSize || restored.TreeSize < uint64(len(old)) {
		t.Errorf("the restored log has %d entries; the lost one had %d", restored.TreeSize, last.TreeSize)
	}
	m.server.Stop(m.t)
	text := must(os.ReadFile(filepath.Join(second, "audit-verified")))(t)
	_, head, _ := strings.Cut(string(text), "head ")
	if out := m.mayfly("audit", "verify", m.path("audit"), "--head", head[:64]); !strings.Contains(out, "whole") {
		t.Errorf("the audit log after the restore: %s", out)
	}

	// The newest guard, should it be found, proves that the copy is older, and the log still refuses.
	lost := must(filepath.Glob(filepath.Join(filepath.Dir(m.Dir), "*", "lost", "2026.json")))(t)
	if len(lost) != 1 {
		t.Fatalf("found the guards %s", lost)
	}
	m.write("guard/2026.json", string(must(os.ReadFile(lost[0]))(t)))
	m.start()
	m.ready()
	m.issues("2026b")
	if log := m.output.String(); !strings.Contains(log, `"reason":"older"`) {
		t.Errorf("the log does not refuse an older copy:\n%s", log)
	}
	if again := m.head("2026"); again.TreeSize != restored.TreeSize || again.SHA256RootHash != restored.SHA256RootHash {
		t.Errorf("the restored log has grown to %d entries", again.TreeSize)
	}
}

// A server that moves takes its log along, once: the old machine and a second restore refuse to sign.
func TestMove(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	kept := filepath.Join(t.TempDir(), "moved")
	m.start()
	m.ready()
	chain := m.issues("2026")
	out := m.runbook(1, "backup.sh", "-m", "-c", m.path("mayfly.yaml"), kept)
	if !strings.Contains(out, "a server writes log 2026") {
		t.Errorf("a move of a running server: %s", out)
	}
	m.await("a checkpoint", func() bool { return m.head("2026").TreeSize == 1 })
	before := m.head("2026")
	m.server.Stop(m.t)
	if err := os.RemoveAll(kept); err != nil {
		t.Fatal(err)
	}
	m.runbook(0, "backup.sh", "-m", "-c", m.path("mayfly.yaml"), kept)
	m.start()
	m.refused("CT_UNAVAILABLE")
	m.server.Stop(m.t)

	m.dir = t.TempDir()
	m.runbook(0, "restore.sh", "-c", m.path("mayfly.yaml"), kept)
	m.write("ctlog-2026.pub", string(must(os.ReadFile(filepath.Join(m.Dir, "ctlog-2026.pub")))(t)))
	m.start()
	m.ready()
	m.issues("2026")
	m.included(chain, "2026")
	m.await("a checkpoint", func() bool { return m.head("2026").TreeSize == 2 })
	after := m.head("2026")
	hashes := must(m.log("2026").GetSTHConsistency(t.Context(), before.TreeSize, after.TreeSize))(t)
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, before.TreeSize, after.TreeSize, hashes, before.SHA256RootHash[:], after.SHA256RootHash[:]); err != nil {
		t.Errorf("the moved log has another history: %v", err)
	}
	m.server.Stop(m.t)

	m.dir = t.TempDir()
	m.runbook(0, "restore.sh", "-c", m.path("mayfly.yaml"), kept)
	m.start()
	m.refused("CT_UNAVAILABLE")
}

// A backup with a changed file is refused.
func TestRestoreFindsDamage(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	kept := filepath.Join(t.TempDir(), "backup")
	m.start()
	m.ready()
	m.issues("2026")
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), kept)
	if err := os.WriteFile(filepath.Join(kept, "files", "issuers"), []byte("oidc-issuers: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.dir = t.TempDir()
	if out := m.runbook(1, "restore.sh", "-c", m.path("mayfly.yaml"), kept); !strings.Contains(out, "files/issuers: FAILED") {
		t.Errorf("the changed file is not named:\n%s", out)
	}
	if names := must(os.ReadDir(m.dir))(t); len(names) > 0 {
		t.Errorf("a damaged backup is restored: %s", names)
	}
	// Where one place is taken, no other part is restored.
	whole := filepath.Join(t.TempDir(), "whole")
	m.dir = m.Dir
	for _, name := range []string{"2026-b", "2026.b"} { // a dot is no pattern
		m.addLog(name)
		m.mayfly("ctlog", "init", "--config", m.path("mayfly.yaml"), "--name", name)
	}
	m.runbook(0, "backup.sh", "-c", m.path("mayfly.yaml"), whole)
	m.dir = t.TempDir()
	if err := errors.Join(os.MkdirAll(m.path("ctlog", "2026"), 0o700), os.Mkdir(m.path("ca"), 0o700)); err != nil {
		t.Fatal(err)
	}
	m.write("ctlog/2026/checkpoint", "")
	m.runbook(1, "restore.sh", "-c", m.path("mayfly.yaml"), whole)
	if names := must(os.ReadDir(m.dir))(t); len(names) != 3 {
		t.Errorf("beside mayfly.yaml, ca and ctlog, there is %s", names)
	}
	if err := os.RemoveAll(m.path("ctlog")); err != nil {
		t.Fatal(err)
	}
	m.runbook(0, "restore.sh", "-c", m.path("mayfly.yaml"), whole)
	if names := must(os.ReadDir(m.path("ctlog")))(t); len(names) != 3 {
		t.Errorf("of three logs, %s are restored", names)
	}
	m.mayfly("ca", "check", "--set", m.path("ca")) // the folder was empty
}

// log is a client of a log that the server serves.
func (m *machine) log(name string) *client.LogClient {
	m.t.Helper()
	key := string(must(os.ReadFile(m.path("ctlog-" + name + ".pub")))(m.t))
	return must(client.New("http://"+m.http+"/ctlog/"+name, http.DefaultClient, jsonclient.Options{PublicKey: key}))(m.t)
}

// head is the newest tree head of a log; its signature is verified.
func (m *machine) head(name string) *ct.SignedTreeHead {
	m.t.Helper()
	return must(m.log(name).GetSTH(context.Background()))(m.t)
}

// included proves that the entry which the certificate's SCT promises is in the log.
func (m *machine) included(chain []string, name string) {
	m.t.Helper()
	leaf, index, err := promised(chain)
	if err != nil {
		m.t.Fatal(err)
	}
	head := m.head(name)
	answer, err := m.log(name).GetEntryAndProof(context.Background(), index, head.TreeSize)
	if err == nil {
		err = proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.TreeSize, leaf, answer.AuditPath, head.SHA256RootHash[:])
	}
	if err != nil {
		m.t.Errorf("entry %d is not in log %s: %v", index, name, err)
	}
}

// promised returns the hash and the index of the entry of a certificate.
func promised(chain []string) (hash []byte, index uint64, err error) {
	var parsed []*ctx509.Certificate
	for _, text := range chain {
		der, err := pem.One([]byte(text), "CERTIFICATE")
		if err != nil {
			return nil, 0, err
		}
		certificate, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return nil, 0, err
		}
		parsed = append(parsed, certificate)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&parsed[0].SCTList)
	if err != nil || len(scts) != 1 || len(scts[0].Extensions) != 8 {
		return nil, 0, fmt.Errorf("the certificate has %d SCTs: %w", len(scts), err)
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(parsed, scts[0].Timestamp)
	if err != nil {
		return nil, 0, err
	}
	leaf.TimestampedEntry.Extensions = scts[0].Extensions
	sum, err := ct.LeafHashForLeaf(leaf)
	// leaf_index of static-ct-api: a type, a length of two bytes, and five bytes.
	return sum[:], binary.BigEndian.Uint64(append(make([]byte, 3), scts[0].Extensions[3:]...)), err
}

// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// ctLog is a log in a process of its own.
type ctLog struct {
	name    string
	url     string // for submissions
	reads   string // for monitors
	key     []byte // PEM
	process *process
	start   func() // after a kill
}

// startLogs starts the two logs of log.yaml and, in the full form, a TesseraCT log, which replicas prefer.
func (f *fleet) startLogs() {
	f.t.Helper()
	for _, name := range []string{"a", "b"} {
		f.startLog(name)
	}
	if programs, _ := filepath.Glob(filepath.Join("..", "..", ".cache", "tools", "tesseract-*", "posix")); full() && len(programs) > 0 {
		f.startTesseraCT(programs[len(programs)-1])
	}
}

// startLog starts mayfly serve with a log.
func (f *fleet) startLog(name string) {
	f.t.Helper()
	s := f.newServer("log-"+name, "log.yaml")
	s.replace(f.t, "ct-a.example", "ct-"+name+".example")
	s.replace(f.t, "2026a", "2026"+name)
	created := must(embedded.Init(f.t.Context(), embedded.Config{
		Name: "2026" + name, Dir: filepath.Join(s.dir, "ctlog", "2026"+name), Guard: filepath.Join(s.dir, "ctlog-guard", "2026"+name+".json"),
		Key: filepath.Join(s.dir, "ctlog-2026"+name+".key"), Origin: "ct-" + name + ".example/ctlog/2026" + name,
	}))(f.t)
	s.replace(f.t, "https://ct-"+name+".example", "http://"+s.http)
	s.replace(f.t, "10.0.0.0/24", "127.0.0.1/32")
	url := "http://" + s.http + "/ctlog/2026" + name
	log := &ctLog{name: "2026" + name, url: url, reads: url, key: created.PublicKey}
	log.start = func() {
		s.start(f)
		log.process = s.process
	}
	log.start()
	f.logs = append(f.logs, log)
}

// startTesseraCT starts a log that answers when it has stored an entry, before it publishes it (docs/ct.md).
func (f *fleet) startTesseraCT(program string) {
	f.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f.t)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(f.Dir, name)
		f.must(os.WriteFile(path, pem.Encode(kind, der), 0o600))
		return path
	}
	address, storage := must(testworld.FreeAddresses("127.7.2.1", 1))(f.t)[0], filepath.Join(f.Dir, "tesseract")
	args := []string{
		"-http_endpoint", address, "-origin", "ct.example/tesseract", "-storage_dir", storage,
		"-private_key", write("tesseract.key", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key))(f.t)),
		"-roots_pem_file", write("roots.pem", "CERTIFICATE", f.Root.Raw), "-ext_key_usages", "CodeSigning",
		"-enable_publication_awaiter=false", "-checkpoint_interval", "1s", "-batch_max_age", "50ms",
	}
	files := httptest.NewServer(http.FileServer(http.Dir(storage)))
	f.t.Cleanup(files.Close)
	log := &ctLog{
		name: "tesseract", url: "http://" + address, reads: files.URL,
		key: pem.Encode("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&key.PublicKey))(f.t)),
	}
	log.start = func() {
		log.process = start(f.t, filepath.Join(f.Dir, "tesseract.log"), exec.Command(program, args...))
		f.await("a TesseraCT log", func() bool { _, err := get(f.t.Context(), log.url+"/healthz"); return err == nil })
	}
	log.start()
	f.logs = append([]*ctLog{log}, f.logs...)
}

// use gives the replica the logs, in their order.
func (f *fleet) use(replica *server) {
	f.t.Helper()
	for _, log := range f.logs {
		name, isMayfly := strings.CutPrefix(log.name, "2026")
		if isMayfly {
			replica.replace(f.t, "https://ct-"+name+".example/ctlog/2026"+name, log.url)
		} else {
			replica.replace(f.t, "  logs:\n", fmt.Sprintf("  logs:\n    - {url: %q, public_key: ctlog-%s.pub}\n", log.url, log.name))
		}
		replica.write(f.t, "ctlog-"+log.name+".pub", log.key)
	}
	replica.replace(f.t, "10.0.0.0/24", "127.0.0.1/32")
}

// address returns host and port of the log's URL.
func (l *ctLog) address() string {
	host, _, _ := strings.Cut(strings.TrimPrefix(l.url, "http://"), "/")
	return host
}

// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// world is a sigstore instance around mayfly, on loopback addresses.
type world struct {
	tools toolset

	mayfly string // base URL

	email    *issuer // type email
	github   *issuer // type ci-provider, with the templates of issuerFile
	username *issuer // type username

	rekor string // base URL of the Rekor v2 log
	tsa   string // URL that answers timestamp requests

	registry string // host and port of a container registry

	trustedRoot   string // file trusted_root.json
	signingConfig string // file signing_config.v0.2.json
	tuf           string // URL of the TUF mirror that has both
	tufRoot       string // file root.json: the mirror's first root of trust

	ca  []*x509.Certificate // the CA's chain: issuing certificate first, root last
	log *ctlog

	// The flags of a REST v1 client take these one by one, as PEM files; the log's key is log.keyFile.
	caChain, tsaChain string
}

// newWorld starts all servers, and returns when each is ready.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{tools: findTools(t)}
	dir := t.TempDir()
	w.email, w.github, w.username = newIssuer(t), newIssuer(t), newIssuer(t)

	tsaCerts := w.startTSA(t, dir)
	rekorKey := w.startRekor(t, dir)
	w.startRegistry(t)
	w.log = startLog(t)
	w.startMayfly(t, dir)
	w.writeTrust(t, dir, tsaCerts, rekorKey)
	w.serveTUF(t, dir)
	return w
}

// startTSA starts timestamp-server with a key and chain that it creates itself.
func (w *world) startTSA(t *testing.T, dir string) []*x509.Certificate {
	t.Helper()
	port := freePorts(t, 1)[0]
	p := start(t, "timestamp-server", serverEnv(dir), w.tools.timestampServer, "serve",
		"--host", "127.0.0.1", "--port", strconv.Itoa(port),
		"--timestamp-signer", "memory", "--disable-ntp-monitoring")
	base := "http://" + loopback(port)
	p.awaitReady(t, http.DefaultClient, base+"/ping")
	w.tsa = base + "/api/v1/timestamp"
	chain := fetch(t, http.DefaultClient, w.tsa+"/certchain")
	w.tsaChain = filepath.Join(dir, "tsa-chain.pem")
	if err := os.WriteFile(w.tsaChain, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	return parseCertificates(t, chain)
}

// startRekor starts Rekor v2 with storage in a folder. Its host name is the origin of its
// checkpoints, which verifiers take from the base URL in the trusted root.
func (w *world) startRekor(t *testing.T, dir string) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 3)
	p := start(t, "rekor-server", serverEnv(dir), w.tools.rekorServer, "serve",
		"--hostname", "127.0.0.1",
		"--http-port", strconv.Itoa(ports[0]),
		"--grpc-port", strconv.Itoa(ports[1]),
		"--http-metrics-port", strconv.Itoa(ports[2]),
		"--storage-dir", filepath.Join(dir, "rekor"),
		"--signer-filepath", writePEM(t, filepath.Join(dir, "rekor.key"), "PRIVATE KEY", der),
		"--batch-max-age", "10ms", "--checkpoint-interval", "200ms")
	w.rekor = "http://" + loopback(ports[0])
	p.awaitReady(t, http.DefaultClient, w.rekor+"/healthz")
	return &key.PublicKey
}

// startRegistry starts an empty container registry that keeps images in memory.
func (w *world) startRegistry(t *testing.T) {
	t.Helper()
	w.registry = loopback(freePorts(t, 1)[0])
	p := start(t, "registry", serverEnv(t.TempDir()), w.tools.crane, "registry", "serve", "--address", w.registry)
	p.awaitReady(t, http.DefaultClient, "http://"+w.registry+"/v2/")
}

// serverEnv is the environment of a server, without the machine's own settings.
func serverEnv(home string) []string {
	return []string{"HOME=" + home, "TMPDIR=" + home, "PATH=" + os.Getenv("PATH")}
}

// fetch returns the body of an answer, which must have status 200.
func fetch(t *testing.T, client *http.Client, url string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	body, err := get(ctx, client, url)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// writePEM writes one block for each of ders and returns path.
func writePEM(t *testing.T, path, kind string, ders ...[]byte) string {
	t.Helper()
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parseCertificates(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		t.Fatalf("no certificate in %q", text)
	}
	return certs
}

// pushImage puts an image of one small layer into the registry and returns its reference by
// digest.
func (w *world) pushImage(t *testing.T, name string) string {
	t.Helper()
	s := newSandbox(t)
	layer := s.write(t, "layer.tar", make([]byte, 1024)) // the end-of-archive mark: an empty tar file
	tag := fmt.Sprintf("%s/%s:1", w.registry, name)
	s.mustRun(t, w.tools.crane, "append", "--oci-empty-base", "--new_layer", layer, "--new_tag", tag)
	digest := s.mustRun(t, w.tools.crane, "digest", tag)
	return fmt.Sprintf("%s/%s@%s", w.registry, name, trim(digest))
}

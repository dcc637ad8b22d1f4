// SPDX-License-Identifier: Apache-2.0

// Package conformance tests a running mayfly serve, from outside, against the wire protocol and the
// certificates of the peer: some 2,600 requests over REST v2, REST v1 and gRPC. For each it expects
// an exact answer, including every byte of SAN and extensions.
//
// The expected values are literals, or are computed here from the standards: nothing of mayfly's
// own encoding is used. Only a log, providers and the generated protocol are shared.
package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// world is the environment of the CA, and two CAs: one configured in YAML with a log, REST and gRPC
// on separate ports; one configured in JSON without a log, both on one port.
type world struct {
	dir       string
	config    string // common to every CA's configuration
	base      string // of the issuers, http://127.0.0.1:port
	providers map[string]*provider.Provider
	oldKey    jose.JSONWebKey // a published key of "rotated" that no longer signs
	gone      jose.JSONWebKey // a withdrawn one
	log       *testlog.Log
	chain     []*x509.Certificate // intermediate, root
	logged    *ca
	unlogged  *ca
}

// ca is one running mayfly serve.
type ca struct {
	name       string
	rest, grpc string // addresses
	sct        bool
	conn       *grpc.ClientConn
	client     fulciov2.CAClient
}

var w *world

// serveFile is the environment variable that turns this test program into mayfly serve, so that the
// race detector sees the server too. CONFORMANCE_BINARY names a mayfly that runs instead.
const serveFile = "CONFORMANCE_SERVE"

func TestMain(m *testing.M) {
	if file := os.Getenv(serveFile); file != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		if err := app.Serve(ctx, app.Options{ConfigFile: file, LogOutput: os.Stderr, Version: "conformance"}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "conformance")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		var stop func()
		w, stop, err = newWorld(dir)
		defer stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if testing.Verbose() {
			fmt.Println("requests:", requests.Load(), "explained:", explained.Load())
		}
		return code
	}())
}

func serveCommand(ctx context.Context, file string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), serveFile+"="+file)
	if binary := os.Getenv("CONFORMANCE_BINARY"); binary != "" {
		cmd = exec.CommandContext(ctx, binary, "serve", "--config", file)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func newWorld(dir string) (_ *world, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	w := &world{dir: dir, providers: map[string]*provider.Provider{}}
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(dir, "ca"), Organization: "conformance", Algorithm: "ecdsa-p256", Now: time.Now})
	if err != nil {
		return nil, stop, err
	}
	w.chain = []*x509.Certificate{made.Intermediate, made.Root}
	if w.log, err = testlog.New(testlog.Config{Roots: w.chain[len(w.chain)-1:]}); err != nil {
		return nil, stop, err
	}
	logServer := httptest.NewServer(w.log)
	stops = append(stops, logServer.Close)

	if err := w.startProviders(&stops); err != nil {
		return nil, stop, err
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			panic(err)
		}
	}
	for _, name := range []string{"issuers.yaml", "issuers.json"} { // one configuration, in two forms
		write(name, strings.ReplaceAll(string(must(os.ReadFile("testdata/"+name))), "BASE", w.base))
	}
	write("log.pub", string(w.log.PublicKeyPEM()))
	w.config = fmt.Sprintf("ca: {file: {chain: %s, key: %s, password_file: %s}}\noidc: {allow_loopback: true}\n", made.ChainFile, made.KeyFile, made.PasswordFile)
	p := freePorts(5)
	write("logged.yaml", fmt.Sprintf("listen: {http: %s, grpc: %s, ops: %s}\nissuers: issuers.yaml\n%sct:\n  logs:\n    - {url: %s, public_key: log.pub}\n", p[0], p[1], p[2], w.config, logServer.URL))
	write("unlogged.yaml", fmt.Sprintf("listen: {http: %s, grpc: %s, ops: %s}\nissuers: issuers.json\n%sct: {disabled: true}\n", p[3], p[3], p[4], w.config))
	w.logged = &ca{name: "logged", rest: p[0], grpc: p[1], sct: true}
	w.unlogged = &ca{name: "unlogged", rest: p[3], grpc: p[3]}
	for _, c := range []*ca{w.logged, w.unlogged} {
		ctx, cancel := context.WithCancel(context.Background())
		cmd := serveCommand(ctx, filepath.Join(dir, c.name+".yaml"))
		logFile := must(os.Create(filepath.Join(dir, c.name+".log")))
		cmd.Stdout, cmd.Stderr = logFile, logFile
		if err := cmd.Start(); err != nil {
			cancel()
			return nil, stop, err
		}
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		stops = append(stops, func() { cancel(); <-done; _ = logFile.Close() })
		if c.conn, err = grpc.NewClient(c.grpc, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return nil, stop, err
		}
		c.client = fulciov2.NewCAClient(c.conn)
		if err := c.ready(done); err != nil {
			out, _ := os.ReadFile(logFile.Name())
			return nil, stop, fmt.Errorf("%s: %w: %s", c.name, err, out)
		}
	}
	return w, stop, nil
}

func (c *ca) ready(done <-chan struct{}) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		resp, err := http.Get("http://" + c.rest + "/readyz")
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				return nil
			}
		}
		select {
		case <-done:
			return fmt.Errorf("it ended")
		case <-time.After(25 * time.Millisecond):
		}
	}
	return fmt.Errorf("not ready in time")
}

// freePorts returns free addresses for a process that starts later, each once. They are on a
// loopback address that no other part of these tests uses, so that no process takes them before. If
// only 127.0.0.1 exists, another process may.
func freePorts(n int) (addresses []string) {
	for len(addresses) < n {
		l, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			l = must(net.Listen("tcp", "127.0.0.1:0"))
		}
		defer l.Close()
		if _, given := portsGiven.LoadOrStore(l.Addr().String(), true); !given {
			addresses = append(addresses, l.Addr().String())
		}
	}
	return addresses
}

var portsGiven sync.Map

// algorithms are the algorithms of the issuers that do not sign with ES256.
var algorithms = map[string]string{
	"rs256": "RS256", "rs384": "RS384", "rs512": "RS512", "ps256": "PS256", "ps384": "PS384", "ps512": "PS512",
	"es384": "ES384", "es512": "ES512", "eddsa": "EdDSA", "rotated": "RS256",
}

func algorithm(provider string) string {
	if alg := algorithms[provider]; alg != "" {
		return alg
	}
	return "ES256"
}

// freshIssuer is the prefix of the paths of issuers with the keys of the provider that follows, of
// type email: fresh-rs256-1. The server knows nothing of each until a token names it.
const freshIssuer = "wild/email/fresh-"

// issuerNames are the paths of all providers.
var issuerNames = []string{
	"email", "email-skip", "email-domains", "email-claim", "email-bracket", "github", "gitlab", "codefresh", "buildkite",
	"circleci", "buddy", "odd", "host", "optional", "github-old", "gitlab-old", "codefresh-old", "buildkite-old",
	"kubernetes", "spiffe", "spiffe-id", "uri", "username", "chainguard", "challenge", "slash/", "audiences",
	"rs256", "rs384", "rs512", "ps256", "ps384", "ps512", "es384", "es512", "eddsa", "rotated",
	"wild/email/a", "wild/kubernetes/a-1_B", "wild/kubernetes/b/", "wild/uri/a", "wild/username/a", "wild/github/ent", "wild/ci/a/x",
	"wild/ci/special/x", "wild/old/a-hub", "wild/gitlab/a", "wild/codefresh/a", "wild/buildkite/a", "wild/chainguard/a", "wild/static",
	"unknown", "wild/email/a/b", "wild/email/a.b", "wild/email/",
}

func (w *world) startProviders(stops *[]func()) error {
	server := httptest.NewUnstartedServer(nil)
	w.base = "http://" + server.Listener.Addr().String()
	byPath := map[string]http.Handler{}
	for _, name := range issuerNames {
		p, err := provider.New(provider.Config{IssuerURL: w.base + "/" + name, Algorithm: algorithm(name)})
		if err != nil {
			return err
		}
		w.providers[name] = p
		byPath["/"+name] = p
	}
	r := w.providers["rotated"]
	w.gone = r.SigningKey()
	if err := r.Withdraw(w.gone.KeyID); err != nil {
		return err
	}
	must(r.Rotate())
	w.oldKey = r.SigningKey()
	must(r.Rotate())
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for _, suffix := range []string{"/.well-known/openid-configuration", "/keys"} {
			name, ok := strings.CutSuffix(r.URL.Path, suffix)
			if !ok {
				continue
			}
			if h := byPath[name]; h != nil {
				h.ServeHTTP(rw, r)
				return
			}
			if fresh, ok := strings.CutPrefix(name, "/"+freshIssuer); ok {
				provider, _, _ := strings.Cut(fresh, "-")
				_, _ = fmt.Fprintf(rw, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":[%q]}`, w.base+name, w.base+"/"+provider+"/keys", algorithm(provider))
				return
			}
			if h := byPath[name+"/"]; h != nil {
				h.ServeHTTP(rw, r)
				return
			}
		}
		http.NotFound(rw, r)
	})
	server.Start()
	*stops = append(*stops, server.Close)
	return nil
}

// must is for calls that cannot fail in a valid test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

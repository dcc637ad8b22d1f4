// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	startLimit = time.Minute
	// host is not the address of other tests' servers, so that none takes a free port in between.
	host = "127.0.0.4"
	// tokens is how many requests are prepared for each kind of token. They are sent in turn.
	tokens = 256
)

// The kinds of tokens, each with an issuer of its own.
const (
	email = "email"
	ci    = "ci"
	// orgs is like ci, of 99 organisations other than ci's. Its requests have the same issuer.
	orgs = "orgs"
)

// world is everything around a server: the OpenID provider in this process, the requests with its
// tokens, and the log in a process of its own.
type world struct {
	t        testing.TB
	dir      string
	issuers  map[string]string // issuer URLs by the kind of token
	requests map[string]string // files for the generator by the kind of token
	log      listening
	logPID   int
}

// newWorld starts the provider and the log until the test ends. issuer is the address at which the
// provider listens; "" for a free one.
func newWorld(t testing.TB, issuer string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), issuers: map[string]string{}, requests: map[string]string{}}
	if issuer == "" {
		issuer = host + ":0"
	}
	l := must(net.Listen("tcp", issuer))(t)
	t.Cleanup(func() { _ = l.Close() })
	key := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	mux := http.NewServeMux()
	for kind, path := range map[string]string{email: "", ci: "/ci"} {
		w.issuers[kind] = "http://" + l.Addr().String() + path
		p := must(provider.New(provider.Config{IssuerURL: w.issuers[kind], Key: key, Lifetime: 2 * time.Hour}))(t)
		mux.Handle(path+"/", p)
		w.prepare(p, kind)
		if kind == ci {
			w.prepare(p, orgs)
		}
	}
	go func() { _ = http.Serve(l, mux) }()
	log := newActor(t, "log")
	w.logPID = log.pid
	log.receive(&w.log)
	w.write("log.pub", pem.Encode("PUBLIC KEY", w.log.PublicKey))
	w.write("issuers.yaml", fmt.Appendf(nil, `oidc-issuers:
  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}
  %[2]s: {issuer-url: %[2]s, client-id: sigstore, type: ci-provider, ci-provider: github-workflow}
`, w.issuers[email], w.issuers[ci]))
	return w
}

// prepare writes the requests of a kind.
func (w *world) prepare(p *provider.Provider, kind string) {
	w.t.Helper()
	w.requests[kind] = filepath.Join(w.dir, kind+".json")
	w.write(kind+".json", must(json.Marshal(prepare(w.t, p, func(i int) (string, map[string]any) { return tokenOf(kind, i) })))(w.t))
}

func (w *world) write(name string, content []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), content, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// prepare mints tokens with the claims of claimsOf, each with a key and a proof of possession.
func prepare(t testing.TB, p *provider.Provider, claimsOf func(i int) (challenge string, claims map[string]any)) (requests []prepared) {
	t.Helper()
	for i := range tokens {
		challenge, claims := claimsOf(i)
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		digest := sha256.Sum256([]byte(challenge))
		requests = append(requests, prepared{
			Token: must(p.Mint(claims))(t),
			Key:   string(pem.Encode("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public()))(t))),
			Proof: must(ecdsa.SignASN1(rand.Reader, key, digest[:]))(t),
		})
	}
	return requests
}

// tokenOf returns the claims of token i and the challenge that its caller signs.
func tokenOf(kind string, i int) (challenge string, claims map[string]any) {
	if kind == email {
		address := fmt.Sprintf("person-%d@example.com", i)
		return address, map[string]any{"sub": fmt.Sprintf("subject-%d", i), "email": address, "email_verified": true}
	}
	owner := "octo-org"
	if kind == orgs {
		owner = fmt.Sprintf("org-%d", i%99)
	}
	repository := fmt.Sprintf("%s/octo-repo-%d", owner, i)
	workflow := repository + "/.github/workflows/release.yml@refs/heads/main"
	subject := "repo:" + repository + ":ref:refs/heads/main"
	claims = map[string]any{"sub": subject}
	maps.Copy(claims, map[string]any{
		"event_name": "push", "sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5", "workflow": "Release", "repository": repository,
		"ref": "refs/heads/main", "job_workflow_ref": workflow, "job_workflow_sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5",
		"runner_environment": "github-hosted", "repository_id": fmt.Sprint(74000 + i), "repository_owner": owner, "repository_owner_id": "65",
		"workflow_ref": workflow, "workflow_sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5", "run_id": "1536140711", "run_attempt": "1",
		"repository_visibility": "public",
	})
	return subject, claims
}

// instance is one server under load.
type instance struct {
	name       string
	pid        int
	http, grpc string            // addresses
	root       *x509.Certificate // nil if the harness did not create the CA
	logKey     []byte            // of the log whose SCTs its certificates have, DER
	dir        string            // of its configuration, its issuer file and its output
}

// address returns where the server serves the API.
func (s *instance) address(api string) string {
	if api == overG {
		return s.grpc
	}
	return s.http
}

// setting is how a server is configured.
type setting struct {
	curve    string // of the CA's keys: p256 or p384
	embedded bool   // a log in the server's process instead of the remote one
	audit    bool   // an audit log
	onePort  bool   // gRPC and REST on one port
	addition string // text of the server's configuration
	issuers  string // text of the issuer file after the world's entries of oidc-issuers
}

// newCA creates a CA in a new folder of the world, as `mayfly ca init` does.
func (w *world) newCA(curve string) (dir string, ca *ceremony.Result) {
	w.t.Helper()
	dir = must(os.MkdirTemp(w.dir, "ca-"))(w.t)
	return dir, must(ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(dir, "ca"), Algorithm: "ecdsa-" + curve, Now: time.Now}))(w.t)
}

// serve runs mayfly serve with a production configuration until the test ends, and returns when it
// issues certificates.
func (w *world) serve(s setting) *instance {
	w.t.Helper()
	server, config, ready := w.configure(s)
	w.start(server, filepath.Dir(config), must(binary())(w.t), "serve", "--config", config)
	w.await(server, ready)
	return server
}

// configure writes the configuration of a server with a CA of its own. ready is the URL of its
// readiness.
func (w *world) configure(s setting) (server *instance, config, ready string) {
	w.t.Helper()
	dir, ca := w.newCA(s.curve)
	addresses := must(testworld.FreeAddresses(host, 3))(w.t)
	server = &instance{name: "mayfly", http: addresses[0], grpc: addresses[1], root: ca.Root, logKey: w.log.PublicKey, dir: dir}
	if s.onePort {
		server.grpc = server.http
	}
	log := fmt.Sprintf(`{url: "http://%s", public_key: ../log.pub}`, w.log.Address)
	if s.embedded {
		log = `embedded: {name: "2026", dir: ./ctlog/2026, guard: ./guard/2026.json, key: ./2026.key, origin: log.example/2026}`
	}
	issuers := append(must(os.ReadFile(filepath.Join(w.dir, "issuers.yaml")))(w.t), s.issuers...)
	w.write(filepath.Join(filepath.Base(dir), "issuers.yaml"), issuers)
	config = filepath.Join(dir, "mayfly.yaml")
	w.write(filepath.Join(filepath.Base(dir), "mayfly.yaml"), fmt.Appendf(nil, `
listen: {http: %q, grpc: %q, ops: %q}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca: {set: ca/ca.yaml}
ct:
  logs:
    - %s
log: {format: json, level: info}
%s
`, server.http, server.grpc, addresses[2], log, s.addition))
	if s.embedded {
		server.logKey = w.initLog(dir)
	}
	if s.audit {
		text := must(os.ReadFile(config))(w.t)
		w.write(filepath.Join(filepath.Base(dir), "mayfly.yaml"), append(text, "audit: {dir: audit}\n"...))
	}
	return server, config, "http://" + addresses[2] + "/readyz"
}

// serveWith runs the peer's binary with the same issuers and log, and a CA of its own.
func (w *world) serveWith(peer, curve string) *instance {
	w.t.Helper()
	dir, ca := w.newCA(curve)
	issuers := filepath.Join(dir, "issuers.yaml")
	defaults := exec.CommandContext(w.t.Context(), must(binary())(w.t), "config", "check", "--explain-defaults", "../../config/issuers.yaml")
	templates := must(defaults.Output())(w.t)
	all := append(must(os.ReadFile(filepath.Join(w.dir, "issuers.yaml")))(w.t), templates...)
	if err := os.WriteFile(issuers, all, 0o600); err != nil {
		w.t.Fatal(err)
	}
	const host = "127.0.0.1" // it does not answer at any other
	addresses := must(testworld.FreeAddresses(host, 3))(w.t)
	server := &instance{name: "peer", http: addresses[0], grpc: addresses[1], root: ca.Root, logKey: w.log.PublicKey}
	password := must(os.ReadFile(ca.PasswordFile))(w.t)
	w.start(server, dir, peer, "serve", "--ca", "fileca", "--fileca-cert", ca.ChainFile, "--fileca-key", ca.KeyFile,
		"--fileca-key-passwd", strings.TrimSpace(string(password)), "--fileca-watch=false", "--config-path", issuers,
		"--ct-log-url", "http://"+w.log.Address, "--ct-log-public-key-path", filepath.Join(w.dir, "log.pub"), "--log_type", "prod",
		"--host", host, "--port", port(server.http), "--grpc-host", host, "--grpc-port", port(server.grpc), "--metrics-port", port(addresses[2]),
		"--legacy-unix-domain-socket", filepath.Join(dir, "socket"))
	w.await(server, "http://"+server.http+"/healthz")
	return server
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// start runs the server until the test ends. Its output goes to a file in dir.
func (w *world) start(s *instance, dir, binary string, args ...string) {
	w.t.Helper()
	output := must(os.Create(filepath.Join(dir, "output")))(w.t)
	cmd := exec.Command(binary, args...)
	testworld.EndWithParent(cmd)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, output, output
	for _, name := range []string{"GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GORACE"} {
		if value := os.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	w.t.Cleanup(func() {
		terminate(cmd)
		if w.t.Failed() {
			text, _ := os.ReadFile(output.Name())
			w.t.Logf("the end of the output of %s:\n%s", s.name, text[max(0, len(text)-2<<10):])
		}
		_ = output.Close()
	})
}

// await returns when the URL, if there is one, answers 200 and the server has the keys of both issuers.
func (w *world) await(s *instance, url string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), startLimit)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		var err error
		if url != "" {
			err = get(ctx, url)
		}
		for _, kind := range []string{email, ci} {
			if err == nil {
				err = w.once(s, kind)
			}
		}
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			w.t.Fatalf("%s is not ready: %v", s.name, err)
		}
	}
}

// once gets one certificate.
func (w *world) once(s *instance, kind string) error {
	send, err := newClient(job{API: restV2, Address: s.http, Requests: w.requests[kind]})
	if err == nil {
		_, err = send(0)
	}
	return err
}

func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// initLog creates the embedded log of a configuration in dir, as `mayfly ctlog init` does, and returns
// its public key, DER.
func (w *world) initLog(dir string) []byte {
	w.t.Helper()
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler)) // its lines would appear among the figures
	created := must(embedded.Init(w.t.Context(), embedded.Config{
		Name: "2026", Dir: filepath.Join(dir, "ctlog", "2026"), Guard: filepath.Join(dir, "guard", "2026.json"),
		Key: filepath.Join(dir, "2026.key"), Origin: "log.example/2026",
	}))(w.t)
	return must(pem.One(created.PublicKey, "PUBLIC KEY"))(w.t)
}

// binary builds mayfly once; MAYFLY_BINARY names another one, to compare.
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MAYFLY_BINARY"); path != "" {
		return testworld.Executable("MAYFLY_BINARY", path)
	}
	dir, err := os.MkdirTemp("", "mayfly-load-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mayfly")
	built = dir
	if out, err := exec.Command("go", "build", "-o", path, "github.com/mayfly-ca/mayfly/cmd/mayfly").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building mayfly: %w\n%s", err, out)
	}
	return path, nil
})

// built is the folder of the binary that was built.
var built string

func removeBinary() {
	if built != "" {
		_ = os.RemoveAll(built)
	}
}

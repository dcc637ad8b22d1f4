// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// apiServer is an API server of Kubernetes with its etcd, without nodes and controllers.
type apiServer struct {
	kubectl, kubeconfig string
}

// An API server takes the objects of each feature, as a dry run: with the defaults and validations that no schema
// has. The namespace warns of each Pod that the restricted Pod Security Standard would refuse.
func TestCluster(t *testing.T) {
	t.Parallel()
	a := startAPIServer(t)
	for module, source := range sources {
		if crds := filepath.Join(download(t, module, source.sum), source.files); strings.HasSuffix(crds, ".yaml") {
			found, err := filepath.Glob(crds)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range found {
				if out, err := a.run(t, nil, "apply", "--server-side", "-f", file); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
		}
	}
	for _, args := range [][]string{
		{"wait", "--for=condition=established", "--timeout=60s", "crd", "--all"},
		{"create", "namespace", "ca"},
		{"label", "namespace", "ca", "pod-security.kubernetes.io/warn=restricted"},
	} {
		if out, err := a.run(t, nil, args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for name, values := range matrix {
		t.Run(name, func(t *testing.T) {
			rendered, objects := render(t, values)
			out, err := a.run(t, rendered, "apply", "--server-side", "--dry-run=server", "--namespace=ca", "-f", "-")
			if applied := strings.Count(string(out), "serverside-applied"); err != nil || applied != len(objects) || strings.Contains(string(out), "Warning") {
				t.Errorf("%v; %d of %d objects were applied:\n%s", err, applied, len(objects), out)
			}
		})
	}
	// The check can fail, by validation and by the standard.
	rendered, _ := render(t, everything)
	for name, change := range map[string][2]string{
		"a port that no container has": {"port: ops}", "port: 'not a name'}"},
		"less than restricted":         {"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"},
		"an invalid route":             {"value: /ctlog/2026", "value: ctlog//2026"},
	} {
		wrong := bytes.Replace(rendered, []byte(change[0]), []byte(change[1]), 1)
		if out, err := a.run(t, wrong, "apply", "--server-side", "--dry-run=server", "--namespace=ca", "-f", "-"); err == nil && !strings.Contains(string(out), "Warning") {
			t.Errorf("%s was not noticed:\n%s", name, out)
		}
	}
}

// run runs kubectl and returns its output, warnings included.
func (a apiServer) run(t *testing.T, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, a.kubectl, append([]string{"--kubeconfig=" + a.kubeconfig}, args...)...)
	c.Stdin = bytes.NewReader(stdin)
	return c.CombinedOutput()
}

func startAPIServer(t *testing.T) apiServer {
	t.Helper()
	a := apiServer{kubectl: program(t, "MAYFLY_KUBECTL")}
	dir := t.TempDir()
	addresses, err := testworld.FreeAddresses("127.0.0.1", 3)
	if err != nil {
		t.Fatal(err)
	}
	etcd, port := "http://"+addresses[0], addresses[2][strings.LastIndex(addresses[2], ":")+1:]
	keep(t, dir, program(t, "MAYFLY_ETCD"), "--data-dir="+dir+"/etcd", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls=http://"+addresses[1], "--initial-advertise-peer-urls=http://"+addresses[1], "--initial-cluster=default=http://"+addresses[1])
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token := rand.Text()
	a.kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := errors.Join(
		os.WriteFile(dir+"/sa.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(dir+"/tokens", []byte(token+",admin,admin,system:masters\n"), 0o600),
		os.WriteFile(a.kubeconfig, []byte(`apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://127.0.0.1:`+port+`", insecure-skip-tls-verify: true}}]
users: [{name: a, user: {token: `+token+`}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
`), 0o600)); err != nil {
		t.Fatal(err)
	}
	keep(t, dir, program(t, "MAYFLY_KUBE_APISERVER"), "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+dir+"/certs",
		"--service-account-key-file="+dir+"/sa.pem", "--service-account-signing-key-file="+dir+"/sa.pem", "--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file="+dir+"/tokens", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount")
	for deadline := time.Now().Add(2 * time.Minute); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		out, err := exec.CommandContext(ctx, a.kubectl, "--kubeconfig="+a.kubeconfig, "get", "--raw", "/readyz").CombinedOutput()
		if err == nil {
			cancel()
			return a
		}
		<-ctx.Done() // the rest of the second
		cancel()
		if time.Now().After(deadline) {
			t.Fatalf("the API server is not ready: %v: %s", err, out)
		}
	}
}

// keep runs a program until the test ends. Its log is shown if the test fails.
func keep(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = log, log
	testworld.EndWithParent(c)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGKILL)
		_ = c.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
		}
		_ = log.Close()
	})
}

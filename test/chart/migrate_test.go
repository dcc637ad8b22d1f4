// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// fulcioValues are values of Fulcio's chart.
const fulcioValues = `config:
  contents: |
    oidc-issuers: {https://accounts.example: {issuer-url: https://accounts.example, client-id: sigstore, type: email}}
server:
  replicaCount: 3
  secret: fulcio-server-secret
  args: {certificateAuthority: fileca, ct_log_url: https://log.example/2026}
  ingress:
    http: {enabled: true, className: nginx, hosts: [{host: fulcio.example, path: /}], tls: [{secretName: fulcio-tls, hosts: [fulcio.example]}]}
    grpc: {enabled: true, className: nginx, hosts: [{host: fulcio.example, path: /}], tls: [{secretName: fulcio-tls, hosts: [fulcio.example]}]}
`

// The values that mayfly migrate writes from those of Fulcio's chart render, and their server's configuration loads.
func TestMigratedValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mayfly := func(args ...string) {
		c := exec.CommandContext(t.Context(), program(t, "MAYFLY_BINARY"), args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	log := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "log.pub"), log, 0o600), os.WriteFile(filepath.Join(dir, "fulcio.yaml"), []byte(fulcioValues), 0o600)); err != nil {
		t.Fatal(err)
	}
	mayfly("ca", "init", "ca")
	chains, err := filepath.Glob(filepath.Join(dir, "ca", "*", "chain.pem"))
	if err != nil || len(chains) != 1 {
		t.Fatalf("chains: %q, %v", chains, err)
	}
	mayfly("migrate", "--from-helm-values", "fulcio.yaml", "--set", "fileca-cert="+chains[0], "--set", "ct-log-public-key-path=log.pub", "--out", "out")
	values, err := os.ReadFile(filepath.Join(dir, "out", "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rendered, objects := render(t, string(values))
	checkObjects(t, objects)
	checkConfigs(t, objects)
	if out, err := kubeconform(t, deriveSchemas(t), rendered); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, o := range objects {
		if o.Kind == "Deployment" && o.Spec["replicas"] == 3 {
			return
		}
	}
	t.Error("no Deployment has the 3 replicas of Fulcio's values")
}

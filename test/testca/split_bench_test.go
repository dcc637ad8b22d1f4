// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/test/testca"
)

// signerFolder, if it is set, turns this binary into a signing process: it names the folder
// with the socket, the key and the chain of one authority.
const signerFolder = "MAYFLY_BENCH_SIGNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(signerFolder); dir != "" {
		fmt.Fprintln(os.Stderr, signFor(dir)) // the parent kills this process when it is no longer needed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// signFor signs over the socket in dir as mayfly signer does, with the policy of leaves.
func signFor(dir string) error {
	chainPEM, err1 := os.ReadFile(filepath.Join(dir, "chain.pem"))
	der, err2 := os.ReadFile(filepath.Join(dir, "key.der"))
	chain, err3 := ca.ParseChain(chainPEM)
	key, err4 := x509.ParsePKCS8PrivateKey(der)
	policy, err5 := ca.NewLeafPolicy(false)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	local, err1 := signer.Local("bench", key.(crypto.Signer), nil)
	server, err2 := socket.NewServer(socket.ServerConfig{
		Path: filepath.Join(dir, "s"),
		Sign: func(ctx context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
			if err := policy.Check(chain, message, time.Now()); err != nil {
				return nil, err
			}
			return local.Sign(ctx, message)
		},
	})
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := server.Listen(); err != nil {
		return err
	}
	return server.Serve(context.Background())
}

// splitOff starts a signing process for key and returns its client.
func splitOff(b *testing.B, chain *ca.Chain, key crypto.Signer) *signer.Signer {
	b.Helper()
	dir, err := os.MkdirTemp("", "m") // the path of a socket is short
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	der := must(x509.MarshalPKCS8PrivateKey(key))(b)
	chainPEM := []byte(strings.Join(chain.PEM, "\n"))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "key.der"), der, 0o600), os.WriteFile(filepath.Join(dir, "chain.pem"), chainPEM, 0o600)); err != nil {
		b.Fatal(err)
	}
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), signerFolder+"="+dir, "GOGC=350"), os.Stderr // as mayfly signer sets it
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	s := must(signer.New(signer.Config{Name: "bench", Kind: "socket", Public: key.Public(), Verified: true, Open: func(ctx context.Context) (signer.Key, error) {
		return socket.Open(ctx, socket.Config{Path: filepath.Join(dir, "s"), Public: key.Public()})
	}}))(b)
	for attempt := 0; ; attempt++ {
		if err := s.Prove(b.Context()); err == nil {
			return s
		} else if attempt == 100 {
			b.Fatal(err)
		}
	}
}

// BenchmarkSplit measures a whole REST v2 request over a loopback socket, including both ends and the
// log's signature, on every core: with the CA's key in this process and in its own process, so that
// other load on the machine affects both.
func BenchmarkSplit(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		for _, split := range []bool{false, true} {
			b.Run(fmt.Sprintf("split=%t", split), func(b *testing.B) {
				builder := testca.Builder{Curve: curve, LogInProcess: true}
				if split {
					builder.Signer = func(chain *ca.Chain, key crypto.Signer) *signer.Signer { return splitOff(b, chain, key) }
				}
				c := newRESTClient(b, testca.New(b, builder))
				inParallel(b, 32, func() error { return c.ask(b.Context()) })
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certificates/s")
			})
		}
	})
}

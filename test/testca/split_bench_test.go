// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	chain, err1 := ca.ParseChain(chainPEM)
	parsed, err2 := x509.ParsePKCS8PrivateKey(der)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	local, err := signer.Local("bench", parsed.(crypto.Signer), nil)
	if err != nil {
		return err
	}
	policy, err := ca.NewLeafPolicy(false)
	if err != nil {
		return err
	}
	server, err := socket.NewServer(socket.ServerConfig{
		Path: filepath.Join(dir, "s"),
		Sign: func(ctx context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
			if err := policy.Check(chain, message, time.Now()); err != nil {
				return nil, err
			}
			return local.Sign(ctx, message)
		},
	})
	if err != nil {
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
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	var chainPEM []byte
	for _, c := range chain.DER {
		chainPEM = append(chainPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "key.der"), der, 0o600), os.WriteFile(filepath.Join(dir, "chain.pem"), chainPEM, 0o600)); err != nil {
		b.Fatal(err)
	}
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), signerFolder+"="+dir, "GOGC=400"), os.Stderr // as mayfly signer sets it
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	s, err := signer.New(signer.Config{Name: "bench", Kind: "socket", Public: key.Public(), Verified: true, Open: func(ctx context.Context) (signer.Key, error) {
		return socket.Open(ctx, socket.Config{Path: filepath.Join(dir, "s"), Public: key.Public()})
	}})
	if err != nil {
		b.Fatal(err)
	}
	for attempt := 0; ; attempt++ {
		if err := s.Prove(b.Context()); err == nil {
			return s
		} else if attempt == 100 {
			b.Fatal(err)
		}
	}
}

// BenchmarkSplit is BenchmarkServe with the CA's key in this process and in its own process,
// alternately, so that other load on the machine affects both.
func BenchmarkSplit(b *testing.B) {
	for name, curve := range curves() {
		for _, split := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/split=%t", name, split), func(b *testing.B) {
				builder := testca.Builder{Curve: curve, LogInProcess: true}
				if split {
					builder.Signer = func(chain *ca.Chain, key crypto.Signer) *signer.Signer { return splitOff(b, chain, key) }
				}
				c := newRESTClient(b, testca.New(b, builder))
				b.ReportAllocs()
				b.SetParallelism(32)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := c.ask(b.Context()); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certificates/s")
			})
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/certs"
)

func spkiOf(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func parsePublic(spki string) (crypto.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(spki)
	if err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(der)
}

// authority is a CA with one certificate, and a TBS that it may sign for the next minutes.
type authority struct {
	key   *ecdsa.PrivateKey
	chain []byte // PEM
	tbs   []byte
}

func newAuthority(b *testing.B) *authority {
	b.Helper()
	a := &authority{key: newKey(b)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		b.Fatal(err)
	}
	a.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	issuing, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	algorithm, err := certs.SignatureAlgorithmFor(a.key.Public())
	if err != nil {
		b.Fatal(err)
	}
	serial, err := certs.NewSerial(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	leaf := certs.Template{
		SerialNumber: serial, SignatureAlgorithm: algorithm, Issuer: issuing.RawSubject, AuthorityKeyID: issuing.SubjectKeyId,
		NotBefore: now, NotAfter: now.Add(10 * time.Minute), PublicKey: spkiOf(b, newKey(b)),
		SAN: certs.SAN{Kind: certs.SANURI, Value: "https://github.com/owner/repo/.github/workflows/release.yml@refs/tags/v1.0.0"},
	}
	for _, e := range certs.Table() {
		leaf.Extensions[e.Arc] = "https://github.com/owner/" + e.Name
	}
	tbs, err := certs.NewTBS(leaf)
	if err != nil {
		b.Fatal(err)
	}
	a.tbs = tbs.Precertificate()
	return a
}

// signs returns the work of the benchmark's server: nothing, or the policy's check and a signature.
func signs(work string, key *ecdsa.PrivateKey, chain *ca.Chain) signFunc {
	policy, err := ca.NewLeafPolicy(false)
	memory := signer.InMemory(key)
	return func(ctx context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		if work == "nothing" {
			return message[:71], nil
		}
		if err != nil {
			return nil, err
		}
		if work == "policy" {
			if err := policy.Check(chain, message, time.Now()); err != nil {
				return nil, fmt.Errorf("%w: %w", socket.ErrNotPermitted, err)
			}
		}
		return memory.Sign(ctx, message)
	}
}

// serveBenchmark is the signing process of the benchmark: it serves until its input ends.
func serveBenchmark() error {
	der, err := base64.StdEncoding.DecodeString(os.Getenv("KEY"))
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the key is not ECDSA")
	}
	chain, err := ca.ParseChain([]byte(os.Getenv("CHAIN")))
	if err != nil {
		return err
	}
	s, err := socket.NewServer(socket.ServerConfig{Path: os.Getenv("SOCKET"), Sign: signs(os.Getenv("WORK"), key, chain)})
	if err != nil {
		return err
	}
	if err := s.Listen(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("ready")
	return s.Serve(ctx)
}

// start starts the signing process, and returns its ID.
func (a *authority) start(b *testing.B, path, work string) int {
	b.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		b.Fatal(err)
	}
	command := exec.CommandContext(context.Background(), os.Args[0])
	command.Env = append(os.Environ(), roleVariable+"=serve", "SOCKET="+path, "WORK="+work, "KEY="+base64.StdEncoding.EncodeToString(der), "CHAIN="+string(a.chain), "GOGC=400")
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = input.Close()
		if err := command.Wait(); err != nil {
			b.Error(err)
		}
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		b.Fatalf("the signing process says %q (%v)", line, err)
	}
	return command.Process.Pid
}

// cpuTime returns the CPU time of a process, by clock_getcpuclockid(3): ^pid<<3 | CPUCLOCK_SCHED.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkSign measures one signature: of a key in this process, and of a key in another process
// that does nothing, signs, or checks the policy and signs. cpu-µs/op is the use of both processes,
// which is the cost if all cores are busy.
func BenchmarkSign(b *testing.B) {
	a := newAuthority(b)
	chain, err := ca.ParseChain(a.chain)
	if err != nil {
		b.Fatal(err)
	}
	inProcess := signs("signature", a.key, chain)
	b.Run("in-process", func(b *testing.B) {
		run(b, 0, func() error {
			_, err := inProcess(b.Context(), [32]byte{}, a.tbs)
			return err
		})
	})
	for _, work := range []string{"nothing", "signature", "policy"} {
		b.Run("socket/"+work, func(b *testing.B) {
			path := newPath(b)
			pid := a.start(b, path, work)
			key := open(b, path, a.key)
			run(b, pid, func() error {
				_, err := key.Sign(b.Context(), a.tbs)
				return err
			})
		})
	}
}

// run measures sign in sequence and, as in a server, 16 at a time.
func run(b *testing.B, pid int, sign func() error) {
	used := func(b *testing.B) time.Duration {
		sum := cpuTime(b, os.Getpid())
		if pid != 0 {
			sum += cpuTime(b, pid)
		}
		return sum
	}
	report := func(b *testing.B, before time.Duration) {
		b.ReportMetric(float64((used(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
		b.ReportAllocs()
	}
	b.Run("serial", func(b *testing.B) {
		before := used(b)
		for b.Loop() {
			if err := sign(); err != nil {
				b.Fatal(err)
			}
		}
		report(b, before)
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(8)
		before := used(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := sign(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		report(b, before)
	})
}

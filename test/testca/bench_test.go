// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testca"
)

func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

// forCurves runs a benchmark for each curve of the CA's key.
func forCurves(b *testing.B, run func(b *testing.B, curve elliptic.Curve)) {
	b.Run("CA=P256", func(b *testing.B) { run(b, elliptic.P256()) })
	b.Run("CA=P384", func(b *testing.B) { run(b, elliptic.P384()) })
}

// BenchmarkIssue measures a certificate on one core beside its floor: from the raw RS256 token and a
// P-256 proof to the chain. The log's work, an SCT for each precertificate, is not counted in time,
// bytes or allocations. A certificate and a pass of the floor alternate in chunks, so that both see
// the same machine. x-floor is the median ratio of ten rounds, with the smallest and the largest;
// x-floor-cpu is the median ratio of CPU time, which other processes affect less.
func BenchmarkIssue(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		log := newQuickLog(b)
		w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true, CT: log, CTPublicKey: log.publicKey})
		req, parts := w.Request(b, w.Token(b, nil), "person@example.com"), floor(b, curve)
		issue := func() { must(w.CA.Issue(b.Context(), req))(b) }
		bare := func() {
			for _, part := range parts {
				part.run(b)
			}
		}
		allocations, size := cost(issue)
		inLog, sizeInLog := cost(func() { must(log.sign(log.last))(b) })
		b.ReportAllocs()
		b.ResetTimer()
		result := besideFloor(b, log, issue, bare)
		result.report(b)
		b.ReportMetric(allocations-inLog, "allocs/op")
		b.ReportMetric(size-sizeInLog, "B/op")
	})
}

// quickLog signs an SCT for each submission, keeps nothing, and measures its own time.
type quickLog struct {
	key       *ecdsa.PrivateKey
	publicKey []byte // PEM
	id        [sha256.Size]byte
	spent     usage
	last      ctlog.Submission
}

func newQuickLog(tb testing.TB) *quickLog {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(tb)
	spki := must(x509.MarshalPKIXPublicKey(key.Public()))(tb)
	return &quickLog{key: key, publicKey: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), id: sha256.Sum256(spki)}
}

func (l *quickLog) Name() string { return "quick" }

func (l *quickLog) Submit(_ context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
	before := used()
	sct, err := l.sign(sub)
	l.last = sub
	u := used().minus(before)
	l.spent = usage{l.spent.wall + u.wall, l.spent.cpu + u.cpu} // one submission at a time
	return sct, err
}

// sign signs the digitally-signed struct of RFC 6962, section 3.2.
func (l *quickLog) sign(sub ctlog.Submission) (ctlog.SCT, error) {
	sct := ctlog.SCT{LogID: l.id, Timestamp: uint64(time.Now().UnixMilli())}
	signed := binary.BigEndian.AppendUint64([]byte{0, 0}, sct.Timestamp) // v1, certificate_timestamp
	signed = append(append(signed, 0, 1), sub.IssuerKeyHash[:]...)       // precert_entry
	signed = append(signed, byte(len(sub.TBS)>>16), byte(len(sub.TBS)>>8), byte(len(sub.TBS)))
	signed = append(append(signed, sub.TBS...), 0, 0) // no extensions
	digest := sha256.Sum256(signed)
	var err error
	sct.Signature, err = ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	return sct, err
}

// cost returns the allocations and bytes of one call. The calls before it fill pools.
func cost(do func()) (allocations, size float64) {
	const calls = 200
	var before, after runtime.MemStats
	for range calls {
		do()
	}
	runtime.ReadMemStats(&before)
	for range calls {
		do()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / calls, float64(after.TotalAlloc-before.TotalAlloc) / calls
}

// usage is time by the clock, and the CPU time of this process, which the collector's threads are part
// of and other processes are not.
type usage struct{ wall, cpu time.Duration }

func (u usage) minus(v usage) usage { return usage{u.wall - v.wall, u.cpu - v.cpu} }

var begin = time.Now()

// used is the usage until now.
func used() usage {
	var cpu unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &cpu) // fails for unknown clocks only
	return usage{time.Since(begin), time.Duration(cpu.Nano())}
}

// alternation is the usage of certificates and of passes of the floor in each round.
type alternation struct{ issue, floor []usage }

// besideFloor runs b.N certificates and b.N passes of the floor in ten rounds.
func besideFloor(b *testing.B, log *quickLog, issue, bare func()) (all alternation) {
	const chunk = 20
	timed := func(n int, do func(), sum *usage) {
		before, inLog := used(), log.spent
		for range n {
			do()
		}
		u := used().minus(before).minus(log.spent.minus(inLog))
		sum.wall, sum.cpu = sum.wall+u.wall, sum.cpu+u.cpu
	}
	rounds := min(10, b.N)
	all.issue, all.floor = make([]usage, rounds), make([]usage, rounds)
	for round := range rounds {
		left := b.N*(round+1)/rounds - b.N*round/rounds
		for ; left > 0; left -= chunk {
			timed(min(chunk, left), bare, &all.floor[round])
			timed(min(chunk, left), issue, &all.issue[round])
		}
	}
	return all
}

// report reports the time of one operation and the ratios over the floor.
func (a *alternation) report(b *testing.B) {
	var ns, floor, wall, cpu []float64
	each := float64(b.N) / float64(len(a.issue))
	for i, u := range a.issue {
		ns, floor = append(ns, float64(u.wall)/each), append(floor, float64(a.floor[i].wall)/each)
		wall, cpu = append(wall, ns[i]/floor[i]), append(cpu, float64(u.cpu)/float64(a.floor[i].cpu))
	}
	b.ReportMetric(median(ns), "ns/op")
	b.ReportMetric(median(floor), "floor-ns/op")
	b.ReportMetric(median(wall), "x-floor")
	b.ReportMetric(slices.Min(wall), "x-floor-min")
	b.ReportMetric(slices.Max(wall), "x-floor-max")
	b.ReportMetric(median(cpu), "x-floor-cpu")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// inParallel measures do on every core, with a number of clients for each.
func inParallel(b *testing.B, clients int, do func() error) {
	b.ReportAllocs()
	b.SetParallelism(clients)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkFloor is the bare cryptography of one issuance: the minimum time to verify a token
// and a proof, sign twice, and verify an SCT and the CA's own last signature.
func BenchmarkFloor(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		parts := floor(b, curve)
		b.ReportAllocs()
		for b.Loop() {
			for _, part := range parts {
				part.run(b)
			}
		}
	})
}

// BenchmarkFloorParts measures the parts of the floor.
func BenchmarkFloorParts(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		for _, part := range floor(b, curve) {
			b.Run(part.name, func(b *testing.B) {
				for b.Loop() {
					part.run(b)
				}
			})
		}
	})
}

type part struct {
	name string
	run  func(testing.TB)
}

func floor(tb testing.TB, curve elliptic.Curve) []part {
	provider := must(rsa.GenerateKey(rand.Reader, 2048))(tb)
	digest := make([]byte, 32)
	signature := must(rsa.SignPKCS1v15(rand.Reader, provider, crypto.SHA256, digest))(tb)
	token := func(tb testing.TB) {
		if err := rsa.VerifyPKCS1v15(&provider.PublicKey, crypto.SHA256, digest, signature); err != nil {
			tb.Fatal(err)
		}
	}
	_, p256 := floorECDSA(tb, elliptic.P256())
	sign, verify := floorECDSA(tb, curve)
	return []part{{"token", token}, {"proof", p256}, {"precertificate", sign}, {"SCT", p256}, {"certificate", sign}, {"verify-certificate", verify}}
}

func floorECDSA(tb testing.TB, curve elliptic.Curve) (sign, verify func(testing.TB)) {
	key := must(ecdsa.GenerateKey(curve, rand.Reader))(tb)
	digest := make([]byte, curve.Params().BitSize/8)
	signature := must(ecdsa.SignASN1(rand.Reader, key, digest))(tb)
	sign = func(tb testing.TB) {
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest); err != nil {
			tb.Fatal(err)
		}
	}
	verify = func(tb testing.TB) {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) {
			tb.Fatal("the signature does not verify")
		}
	}
	return sign, verify
}

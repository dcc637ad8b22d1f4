// SPDX-License-Identifier: Apache-2.0

//go:build unix

package ctlog_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// cannedAnswer, if it is set, turns this binary into a log that gives this one answer.
const cannedAnswer = "MAYFLY_BENCH_ANSWER"

func TestMain(m *testing.M) {
	if answer := os.Getenv(cannedAnswer); answer != "" {
		fmt.Fprintln(os.Stderr, answerAll(answer)) // the parent kills this process when it is no longer needed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// answerAll serves answer to each submission, and prints its URL.
func answerAll(answer string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
}

// answer returns the answer of a log to a submission, as JSON.
func (f *fixture) answer(b *testing.B, sub ctlog.Submission) string {
	b.Helper()
	sct, err := f.log.Submit(b.Context(), sub)
	if err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(ct.AddChainResponse{
		ID: sct.LogID[:], Timestamp: sct.Timestamp, Signature: append([]byte{4, 3, 0, byte(len(sct.Signature))}, sct.Signature...),
	})
	if err != nil {
		b.Fatal(err)
	}
	return string(body)
}

// startLog starts the log in its own process and returns its URL.
func startLog(b *testing.B, answer string) string {
	b.Helper()
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), cannedAnswer+"="+answer), os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// cpu returns the CPU time of this process, in the system included.
func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkSubmission measures the CPU time that one SCT costs the submitter's process: the log is
// another process. cpu-µs is everything, verification included; BenchmarkVerify is the
// floor.
func BenchmarkSubmission(b *testing.B) {
	f := newFixture(b, nil)
	sub := f.submission(b)
	remote := newRemote(b, startLog(b, f.answer(b, sub)))
	logs := newLogs(b, ctlog.Config{Logs: []ctlog.LogConfig{{Log: remote, PublicKey: f.log.PublicKeyPEM()}}})
	for _, clients := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			add := func(n int) {
				var group sync.WaitGroup
				for i := range clients {
					group.Go(func() {
						for range (n + i) / clients {
							if _, err := logs.Add(b.Context(), sub); err != nil {
								b.Error(err)
							}
						}
					})
				}
				group.Wait()
			}
			add(clients) // connects
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			add(b.N)
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}

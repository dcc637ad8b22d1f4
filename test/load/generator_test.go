// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// APIs of a server.
const (
	restV2 = "rest-v2"
	restV1 = "rest-v1"
	overG  = "grpc"
)

// answerLimit is the limit for a complete answer.
const answerLimit = 30 * time.Second

// certificateBegin is in every answer that holds a certificate.
var certificateBegin = []byte("BEGIN CERTIFICATE")

// prepared is what one request holds: a valid ID token, a public key (PEM) and its proof of possession.
type prepared struct {
	Token, Key string
	Proof      []byte
}

// job is one load on one server. It ends after Count requests or after Duration.
type job struct {
	API, Address string
	Requests     string // a file with a list of prepared; all of them are sent in turn
	Clients      int    // connections, each with one request at a time
	// Rate is the number of requests that begin in a second, whether or not earlier ones have been
	// answered (open loop); latency counts from the time at which a request was due. 0: each client
	// sends its next request when it has the answer (closed loop).
	Rate     float64
	Count    int
	Duration time.Duration
	Keep     int // how many answers to return
}

// outcome is the result of a job.
type outcome struct {
	Answers, Failures int
	Failure           string // the first one
	Elapsed           time.Duration
	Latency           *hdrhistogram.Snapshot // in microseconds
	Kept              [][]byte
}

func (o outcome) rate() float64 { return float64(o.Answers) / o.Elapsed.Seconds() }

// newHistogram counts microseconds up to a minute, to three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// playGenerator runs jobs. Its connections to a server stay open between jobs.
func playGenerator(in *json.Decoder, out *json.Encoder) error {
	type server struct{ api, address, requests string }
	open := make(map[server][]client)
	for {
		var j job
		if err := in.Decode(&j); err != nil {
			return err
		}
		key := server{j.API, j.Address, j.Requests}
		for len(open[key]) < j.Clients {
			c, err := newClient(j)
			if err != nil {
				return err
			}
			open[key] = append(open[key], c)
		}
		if err := out.Encode(j.run(open[key][:j.Clients])); err != nil {
			return err
		}
	}
}

// client sends request n on its own connection, and returns the answer if it holds a certificate.
type client func(n int) ([]byte, error)

func newClient(j job) (client, error) {
	text, err := os.ReadFile(j.Requests)
	if err != nil {
		return nil, err
	}
	var requests []prepared
	if err := json.Unmarshal(text, &requests); err != nil {
		return nil, err
	}
	if j.API == overG {
		return newGRPCClient(j.Address, requests)
	}
	return newRESTClient(j.API, j.Address, requests)
}

func (j job) run(clients []client) outcome {
	var next, failures atomic.Int64
	var mu sync.Mutex // guards all and result
	all, result := newHistogram(), outcome{}
	begin := time.Now()
	var running sync.WaitGroup
	for _, send := range clients {
		running.Go(func() {
			mine := newHistogram()
			for {
				n := int(next.Add(1) - 1)
				if j.Count > 0 && n >= j.Count {
					break
				}
				due := time.Now()
				if j.Rate > 0 {
					due = begin.Add(time.Duration(float64(n) / j.Rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if j.Duration > 0 && due.Sub(begin) >= j.Duration {
					break
				}
				answer, err := send(n)
				_ = mine.RecordValue(max(1, time.Since(due).Microseconds())) // a larger value is impossible within answerLimit
				if err != nil && failures.Add(1) == 1 || n < j.Keep {
					mu.Lock()
					if err != nil {
						result.Failure = err.Error()
					} else {
						result.Kept = append(result.Kept, bytes.Clone(answer))
					}
					mu.Unlock()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(mine)
		})
	}
	running.Wait()
	result.Elapsed, result.Failures = time.Since(begin), int(failures.Load())
	result.Answers, result.Latency = int(all.TotalCount())-result.Failures, all.Export()
	return result
}

// newRESTClient writes finished requests to a connection, so that the generator costs little beside
// the server.
func newRESTClient(api, address string, requests []prepared) (client, error) {
	texts := make([][]byte, len(requests))
	for i, r := range requests {
		var err error
		if texts[i], err = httpRequest(api, address, r); err != nil {
			return nil, err
		}
	}
	expected := http.StatusOK
	if api == restV1 {
		expected = http.StatusCreated
	}
	var conn net.Conn
	var reader *bufio.Reader
	var body bytes.Buffer
	return func(n int) (_ []byte, err error) {
		if conn == nil {
			if conn, err = net.Dial("tcp", address); err != nil {
				return nil, err
			}
			reader = bufio.NewReader(conn)
		}
		answer, err := exchange(conn, reader, &body, texts[n%len(texts)], expected)
		if err != nil {
			_ = conn.Close()
			conn = nil
		}
		return answer, err
	}, nil
}

func exchange(conn net.Conn, reader *bufio.Reader, body *bytes.Buffer, request []byte, expected int) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body.Reset()
	if _, err := io.Copy(body, response.Body); err != nil {
		return nil, err
	}
	if response.StatusCode != expected || !bytes.Contains(body.Bytes(), certificateBegin) {
		return nil, fmt.Errorf("%s: %.300s", response.Status, body.Bytes())
	}
	return body.Bytes(), nil
}

// httpRequest is a request with its header, as sigstore's clients of that version send it.
func httpRequest(api, address string, r prepared) ([]byte, error) {
	path, authorization := "/api/v2/signingCert", ""
	content := any(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": r.Token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"algorithm": "ECDSA", "content": r.Key},
			"proofOfPossession": r.Proof,
		},
	})
	if api == restV1 {
		path, authorization = "/api/v1/signingCert", "Authorization: Bearer "+r.Token+"\r\n"
		content = map[string]any{
			"publicKey":          map[string]any{"algorithm": "ecdsa", "content": base64.StdEncoding.EncodeToString([]byte(r.Key))},
			"signedEmailAddress": r.Proof,
		}
	}
	body, err := json.Marshal(content)
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, address, authorization, len(body), body), err
}

func newGRPCClient(address string, requests []prepared) (client, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	api := fulciov2.NewCAClient(conn)
	return func(n int) ([]byte, error) {
		r := requests[n%len(requests)]
		ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
		defer cancel()
		answer, err := api.CreateSigningCertificate(ctx, &fulciov2.CreateSigningCertificateRequest{
			Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: r.Token}},
			Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
				PublicKey:         &fulciov2.PublicKey{Algorithm: fulciov2.PublicKeyAlgorithm_ECDSA, Content: r.Key},
				ProofOfPossession: r.Proof,
			}},
		})
		if err != nil {
			return nil, err
		}
		chain := answer.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()
		if len(chain) == 0 || !bytes.Contains([]byte(chain[0]), certificateBegin) {
			return nil, fmt.Errorf("the answer has %d certificates", len(chain))
		}
		return json.Marshal(chain)
	}, nil
}

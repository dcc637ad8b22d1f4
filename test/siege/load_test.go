// SPDX-License-Identifier: Apache-2.0

package siege

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	clients = 16
	pause   = 50 * time.Millisecond // between two certificates of a client
	email   = "person@example.com"
)

// load is the requests of the clients, and their results.
type load struct {
	mu    sync.Mutex
	took  []time.Duration // of each certificate
	fails []error
	stop  func()
}

// ask starts 16 clients that request certificates until stop. Every second client uses a new
// connection for each request. No client retries.
func (s *server) ask() *load {
	ctx, cancel := context.WithCancel(s.t.Context())
	l := &load{}
	var running sync.WaitGroup
	for i := range clients {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		running.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				begin := time.Now()
				err := s.certificate(client)
				l.mu.Lock()
				if l.took = append(l.took, time.Since(begin)); err != nil {
					l.fails = append(l.fails, err)
				}
				l.mu.Unlock()
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	l.stop = func() { cancel(); running.Wait() }
	return l
}

// certificate gets one certificate over REST v2.
func (s *server) certificate(client *http.Client) error {
	token, err := s.provider.Mint(map[string]any{"sub": "person-1", "email": email, "email_verified": true})
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(email))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
			"proofOfPossession": proof,
		},
	})
	if err != nil {
		return err
	}
	response, err := client.Post("http://"+s.http+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte("signedCertificateEmbeddedSct")) {
		return fmt.Errorf("%s: %.300s: %w", response.Status, answer, err)
	}
	return nil
}

// figures prints the results of the requests, and fails the test if one was refused or lost, or p99
// is not below the limit.
func (s *server) figures(scenario string, l *load, limit time.Duration) {
	s.t.Helper()
	l.stop()
	s.mustLive()
	slices.Sort(l.took)
	n := len(l.took)
	if n == 0 {
		s.t.Fatal("no client got a certificate")
	}
	p50, p99 := l.took[n/2], l.took[n*99/100]
	s.t.Logf("%s: %d certificates, %d refused or lost; p50 %s, p99 %s, longest %s", scenario, n-len(l.fails), len(l.fails),
		p50.Round(time.Millisecond), p99.Round(time.Millisecond), l.took[n-1].Round(time.Millisecond))
	if len(l.fails) > 0 {
		s.t.Errorf("%s: certificates were refused or lost, the first with: %v", scenario, l.fails[0])
	}
	if p99 >= limit {
		s.t.Errorf("%s: p99 is %s; below %s is expected", scenario, p99, limit)
	}
}

// memory prints the largest size of the process, and fails the test above 256 MiB.
func (s *server) memory(scenario string) {
	s.t.Helper()
	peak := s.peak()
	s.t.Logf("%s: peak memory %d MiB", scenario, peak)
	if peak >= 256 {
		s.t.Errorf("%s: the process took %d MiB; below 256 are expected", scenario, peak)
	}
}

// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// load is clients that request certificates until the test stops them.
type load struct {
	r       *rotationWorld
	end     chan struct{}
	clients sync.WaitGroup
	failed  atomic.Int64
	bundles atomic.Int64

	mu     sync.Mutex
	issued map[string]map[*replica]int // by authority and replica
	seen   map[*replica]int            // the largest number of chains in a replica's bundle
}

func (r *rotationWorld) load(clients int) *load {
	l := &load{r: r, end: make(chan struct{}), issued: map[string]map[*replica]int{}, seen: map[*replica]int{}}
	for i := range clients {
		l.clients.Go(func() { l.client(i) })
	}
	r.t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.clients.Wait()
}

// certificates returns how many were issued until now.
func (l *load) certificates() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, replicas := range l.issued {
		for _, count := range replicas {
			n += count
		}
	}
	return n
}

func (l *load) issuedBy(authority string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, count := range l.issued[authority] {
		n += count
	}
	return n
}

func (l *load) replicasOf(authority string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.issued[authority])
}

// client sends requests to the replicas in turn, and verifies with a bundle that it keeps for as
// long as a careful verifier does: almost a day.
func (l *load) client(i int) {
	var bundle *bundle
	for turn := i; ; turn++ {
		select {
		case <-l.end:
			return
		default:
		}
		replicas := l.r.running()
		// Half the clients fetch the bundle for each certificate, the others once a day.
		if bundle == nil || i%2 == 0 || l.r.now().Sub(bundle.fetched) >= set.PublicationLead-time.Minute {
			var err error
			if bundle, err = l.fetch(replicas[(turn+1)%len(replicas)]); err != nil {
				l.fail(err)
				return
			}
		}
		to := replicas[turn%len(replicas)]
		chain, err := to.request(l.r.t.Context(), map[string]any{"email": fmt.Sprintf("client-%d@example.com", i)})
		if err == nil {
			err = l.verify(bundle, to, chain[0])
		}
		if err != nil {
			l.fail(err)
		}
	}
}

func (l *load) fail(err error) {
	if l.failed.Add(1) <= 5 {
		l.r.t.Error(err)
	}
}

type bundle struct {
	fetched              time.Time
	roots, intermediates *x509.CertPool
}

func (l *load) fetch(from *replica) (*bundle, error) {
	b := &bundle{fetched: l.r.now(), roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	l.mu.Lock()
	atLeast := l.seen[from]
	l.mu.Unlock()
	var answer struct {
		Chains []struct{ Certificates []string }
	}
	if err := json.Unmarshal([]byte(fetch(l.r.t, from.rest+"/api/v2/trustBundle")), &answer); err != nil {
		return nil, err
	}
	for _, chain := range answer.Chains {
		last := len(chain.Certificates) - 1
		if !b.intermediates.AppendCertsFromPEM([]byte(strings.Join(chain.Certificates[:last], ""))) || !b.roots.AppendCertsFromPEM([]byte(chain.Certificates[last])) {
			return nil, fmt.Errorf("a chain of the trust bundle cannot be read: %q", chain.Certificates)
		}
	}
	l.bundles.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(answer.Chains) < atLeast {
		return nil, fmt.Errorf("the trust bundle has shrunk from %d to %d chains", atLeast, len(answer.Chains))
	}
	l.seen[from] = max(l.seen[from], len(answer.Chains))
	return b, nil
}

// verify verifies a certificate with the bundle only.
func (l *load) verify(b *bundle, from *replica, leafPEM string) error {
	der, err := pem.One([]byte(leafPEM), "CERTIFICATE")
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: b.roots, Intermediates: b.intermediates, CurrentTime: leaf.NotBefore.Add(time.Minute),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return fmt.Errorf("a certificate by %s does not verify with the bundle of %s: %w", leaf.Issuer, b.fetched, err)
	}
	authority := l.r.first
	if chains[0][1].Subject.CommonName == "next intermediate" {
		authority = "next"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issued[authority] == nil {
		l.issued[authority] = map[*replica]int{}
	}
	l.issued[authority][from]++
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"google.golang.org/grpc"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// listening is a role's answer: where it serves.
type listening struct {
	Address, GRPC string
	PublicKey     []byte // of a log, DER
}

// playLog is a log that signs an SCT for each precertificate and keeps nothing, so that its time and
// memory do not depend on what it has signed before. Its SCTs have a leaf_index, as those of
// static-ct-api logs do. It trusts its submitters: test/testlog checks each chain, for longer than a
// server needs for the certificate.
func playLog(in *json.Decoder, out *json.Encoder) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	id := sha256.Sum256(spki)
	var index atomic.Uint64
	address, err := serveHTTP(func(w http.ResponseWriter, r *http.Request) {
		var request ct.AddChainRequest
		err := json.NewDecoder(r.Body).Decode(&request)
		var sct *ct.AddChainResponse
		if err == nil {
			sct, err = signSCT(key, id, index.Add(1), request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(sct)
	})
	if err != nil {
		return err
	}
	if err := out.Encode(listening{Address: address, PublicKey: spki}); err != nil {
		return err
	}
	return in.Decode(new(any)) // until the input ends
}

// signSCT signs as RFC 6962, section 3.2, defines.
func signSCT(key *ecdsa.PrivateKey, id [sha256.Size]byte, index uint64, request ct.AddChainRequest) (*ct.AddChainResponse, error) {
	var chain []ct.ASN1Cert
	for _, der := range request.Chain {
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, uint64(time.Now().UnixMilli()))
	if err != nil {
		return nil, err
	}
	// static-ct-api: extension type 0, two octets of length, and an index of 40 bits.
	leaf.TimestampedEntry.Extensions = []byte{0, 0, 5, byte(index >> 32), byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
	sct := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: id}, Timestamp: leaf.TimestampedEntry.Timestamp, Extensions: leaf.TimestampedEntry.Extensions,
	}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(input)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	algorithm := cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA}
	signed, err := cttls.Marshal(ct.DigitallySigned{Algorithm: algorithm, Signature: signature})
	return &ct.AddChainResponse{
		SCTVersion: ct.V1, ID: id[:], Timestamp: sct.Timestamp, Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: signed,
	}, err
}

// serveHTTP serves on a free port of the loopback address until the process ends.
func serveHTTP(handle http.HandlerFunc) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() { _ = http.Serve(l, handle) }()
	return l.Addr().String(), nil
}

// canned answers every request of gRPC with one certificate chain.
type canned struct {
	fulciov2.UnimplementedCAServer
	answer *fulciov2.SigningCertificate
}

func (c canned) CreateSigningCertificate(context.Context, *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	return c.answer, nil
}

// playStub answers every request at once with the answer of a server: the load of the generator
// without the server's work. Its only request is that answer.
func playStub(in *json.Decoder, out *json.Encoder) error {
	var answer []byte
	if err := in.Decode(&answer); err != nil {
		return err
	}
	address, err := serveHTTP(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	chain := &fulciov2.CertificateChain{Certificates: []string{string(answer)}}
	fulciov2.RegisterCAServer(server, canned{answer: &fulciov2.SigningCertificate{
		Certificate: &fulciov2.SigningCertificate_SignedCertificateEmbeddedSct{
			SignedCertificateEmbeddedSct: &fulciov2.SigningCertificateEmbeddedSCT{Chain: chain},
		},
	}})
	go func() { _ = server.Serve(l) }()
	if err := out.Encode(listening{Address: address, GRPC: l.Addr().String()}); err != nil {
		return err
	}
	return in.Decode(new(any)) // until the input ends
}

// passes is how many passes of the floor two goroutines run with a CA key on the curve, and the
// answer to it: how many they ran.
type passes struct {
	Curve    string
	Duration time.Duration
	Count    int
}

func playFloor(in *json.Decoder, out *json.Encoder) error {
	floors := make(map[string]func() error)
	for {
		var p passes
		if err := in.Decode(&p); err != nil {
			return err
		}
		if floors[p.Curve] == nil {
			pass, err := newFloor(p.Curve)
			if err != nil {
				return err
			}
			floors[p.Curve] = pass
		}
		var count atomic.Int64
		var failure atomic.Pointer[error]
		var running sync.WaitGroup
		end := time.Now().Add(p.Duration)
		for range 2 {
			running.Go(func() {
				for time.Now().Before(end) {
					if err := floors[p.Curve](); err != nil {
						failure.Store(&err)
						return
					}
					count.Add(1)
				}
			})
		}
		running.Wait()
		if err := failure.Load(); err != nil {
			return *err
		}
		p.Count = int(count.Load())
		if err := out.Encode(p); err != nil {
			return err
		}
	}
}

// newFloor returns the bare cryptography of one issuance: verify a token and a proof, sign the
// precertificate, verify the SCT, sign the certificate and verify that signature. Its keys have been
// parsed from their encodings, as a server's are.
func newFloor(curve string) (pass func() error, err error) {
	provider, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	digest := make([]byte, sha256.Size)
	token, err := rsa.SignPKCS1v15(rand.Reader, provider, crypto.SHA256, digest)
	if err != nil {
		return nil, err
	}
	rsaKey, err := reparse(&provider.PublicKey)
	if err != nil {
		return nil, err
	}
	_, verifyP256, err := newFloorECDSA("p256")
	if err != nil {
		return nil, err
	}
	sign, verify, err := newFloorECDSA(curve)
	return func() error {
		return errors.Join(
			rsa.VerifyPKCS1v15(rsaKey.(*rsa.PublicKey), crypto.SHA256, digest, token),
			verifyP256(), sign(), verifyP256(), sign(), verify(),
		)
	}, err
}

func newFloorECDSA(curve string) (sign, verify func() error, err error) {
	c, size := elliptic.P256(), sha256.Size
	if curve == "p384" {
		c, size = elliptic.P384(), crypto.SHA384.Size()
	}
	created, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(created)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, err
	}
	key := parsed.(*ecdsa.PrivateKey)
	public, err := reparse(key.Public())
	if err != nil {
		return nil, nil, err
	}
	digest := make([]byte, size)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
	sign = func() error {
		_, err := ecdsa.SignASN1(rand.Reader, key, digest)
		return err
	}
	verify = func() error {
		if !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest, signature) {
			return errors.New("the signature does not verify")
		}
		return nil
	}
	return sign, verify, err
}

func reparse(public crypto.PublicKey) (crypto.PublicKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(spki)
}

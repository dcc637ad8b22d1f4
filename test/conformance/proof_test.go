// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
)

type proofCase struct {
	name   string
	ask    ask
	pub    any // of the certificate
	refuse string
	only   string // the only API that can express it; "" for all
}

// rsaKeys are generated once: generation is slow.
var rsaKeys = sync.OnceValue(func() map[int]*rsa.PrivateKey {
	keys := map[int]*rsa.PrivateKey{}
	for _, bits := range []int{1024, 2048, 3072, 4096, 2056} {
		keys[bits] = must(rsa.GenerateKey(rand.Reader, bits))
	}
	return keys
})

func csrOf(key crypto.Signer, alg x509.SignatureAlgorithm) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "evil.example"}, EmailAddresses: []string{"evil@example.com"}, DNSNames: []string{"evil.example"}, SignatureAlgorithm: alg,
	}, key))
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// oneLine puts the base64 of a PEM block on one line.
func oneLine(kind string, der []byte) string {
	return "-----BEGIN " + kind + "-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END " + kind + "-----\n"
}

func p1363(key *ecdsa.PrivateKey, digest []byte) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		panic(err)
	}
	n := (key.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
}

func proofCases() []proofCase {
	var cases []proofCase
	yes := func(name string, a ask, pub any) { cases = append(cases, proofCase{name: name, ask: a, pub: pub}) }
	no := func(name string, a ask, refuse string) {
		cases = append(cases, proofCase{name: name, ask: a, refuse: refuse})
	}
	r := rsaKeys()
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p256, p384, p521 := newKey(), must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	keys := map[string]crypto.Signer{"P-256": p256, "P-384": p384, "P-521": p521, "RSA-2048": r[2048], "RSA-3072": r[3072], "RSA-4096": r[4096], "Ed25519": ed}
	for name, key := range keys {
		pub := key.Public()
		spki := must(x509.MarshalPKIXPublicKey(pub))
		good := sign(key, person)
		yes(name, ask{publicKey: publicPEM(pub), proof: good}, pub)
		csr := csrOf(key, 0)
		if name == "RSA-3072" || name == "RSA-4096" || name == "RSA-2048" {
			csr = csrOf(key, x509.SHA256WithRSA)
			yes(name+" PKCS #1", ask{publicKey: pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(pub.(*rsa.PublicKey))), proof: good}, pub)
		}
		yes(name+" CSR", ask{csr: pemOf("CERTIFICATE REQUEST", csr)}, pub)
		yes(name+" NEW CSR", ask{csr: pemOf("NEW CERTIFICATE REQUEST", csr)}, pub)
		yes(name+" key on one line", ask{publicKey: oneLine("PUBLIC KEY", spki), proof: good}, pub)
		yes(name+" CSR on one line", ask{csr: oneLine("CERTIFICATE REQUEST", csr)}, pub)
		no(name+" proof over another text", ask{publicKey: publicPEM(pub), proof: sign(key, "b@example.com")}, "400 PROOF_INVALID")
		no(name+" proof over sub", ask{publicKey: publicPEM(pub), proof: sign(key, "subject")}, "400 PROOF_INVALID")
		no(name+" no proof", ask{publicKey: publicPEM(pub)}, "400 PROOF_INVALID")
		no(name+" trailing byte", ask{publicKey: publicPEM(pub), proof: append(good[:len(good):len(good)], 0)}, "400 PROOF_INVALID")
		no(name+" truncated", ask{publicKey: publicPEM(pub), proof: good[:len(good)-1]}, "400 PROOF_INVALID")
		no(name+" another's proof", ask{publicKey: publicPEM(pub), proof: sign(newKey(), person)}, "400 PROOF_INVALID")
		broken := append([]byte(nil), csr...)
		broken[len(broken)-1] ^= 1
		no(name+" CSR with a broken signature", ask{csr: pemOf("CERTIFICATE REQUEST", broken)}, "400")
		no(name+" CSR in DER", ask{csr: string(csr)}, "400 CSR_INVALID")
	}
	d := sha256.Sum256([]byte(person))
	d384, d512 := sha512.Sum384([]byte(person)), sha512.Sum512([]byte(person))
	yes("P-256 P1363", ask{publicKey: publicPEM(p256.Public()), proof: p1363(p256, d[:])}, p256.Public())
	yes("P-384 P1363", ask{publicKey: publicPEM(p384.Public()), proof: p1363(p384, d384[:])}, p384.Public())
	yes("P-521 P1363", ask{publicKey: publicPEM(p521.Public()), proof: p1363(p521, d512[:])}, p521.Public())
	no("P-256 P1363 and a byte", ask{publicKey: publicPEM(p256.Public()), proof: append(p1363(p256, d[:]), 0)}, "400 PROOF_INVALID")
	no("P-256 P1363 with SHA-384", ask{publicKey: publicPEM(p256.Public()), proof: p1363(p256, d384[:])}, "400 PROOF_INVALID")
	no("P-384 with SHA-256", ask{publicKey: publicPEM(p384.Public()), proof: must(p384.Sign(rand.Reader, d[:], crypto.SHA256))}, "400 PROOF_INVALID")
	no("P-521 with SHA-256", ask{publicKey: publicPEM(p521.Public()), proof: must(p521.Sign(rand.Reader, d[:], crypto.SHA256))}, "400 PROOF_INVALID")
	no("P-256 with SHA-512", ask{publicKey: publicPEM(p256.Public()), proof: must(p256.Sign(rand.Reader, d512[:], crypto.SHA512))}, "400 PROOF_INVALID")
	no("RSA-PSS", ask{publicKey: publicPEM(r[2048].Public()), proof: must(rsa.SignPSS(rand.Reader, r[2048], crypto.SHA256, d[:], nil))}, "400 PROOF_INVALID")
	no("RSA with SHA-512", ask{publicKey: publicPEM(r[2048].Public()), proof: must(rsa.SignPKCS1v15(rand.Reader, r[2048], crypto.SHA512, d512[:]))}, "400 PROOF_INVALID")
	no("Ed25519 over a hash", ask{publicKey: publicPEM(ed.Public()), proof: ed25519.Sign(ed, d512[:])}, "400 PROOF_INVALID")
	no("Ed25519ph", ask{publicKey: publicPEM(ed.Public()), proof: must(ed.Sign(nil, d512[:], &ed25519.Options{Hash: crypto.SHA512}))}, "400 PROOF_INVALID")
	no("P1363 of zeros", ask{publicKey: publicPEM(p256.Public()), proof: make([]byte, 64)}, "400 PROOF_INVALID")
	no("proof over base64 of the text", ask{publicKey: publicPEM(p256.Public()), proof: sign(p256, base64.StdEncoding.EncodeToString([]byte(person)))}, "400 PROOF_INVALID")

	// The forms of a public key.
	text := publicPEM(p256.Public())
	good := sign(p256, person)
	yes("text around", ask{publicKey: "hello\n" + text + "\nbye\n", proof: good}, p256.Public())
	yes("CRLF", ask{publicKey: strings.ReplaceAll(text, "\n", "\r\n"), proof: good}, p256.Public())
	yes("no newline at the end", ask{publicKey: strings.TrimSpace(text), proof: good}, p256.Public())
	yes("the first of two", ask{publicKey: text + publicPEM(p384.Public()), proof: good}, p256.Public())
	no("the second of two", ask{publicKey: publicPEM(p384.Public()) + text, proof: good}, "400 PROOF_INVALID")
	for name, key := range map[string]string{
		"empty": " ", "no PEM": "hello", "a certificate first": pemOf("CERTIFICATE", w.chain[0].Raw) + text, "wrong type": strings.ReplaceAll(text, "PUBLIC KEY", "EC PUBLIC KEY"),
		"PKCS #1 under PUBLIC KEY": pemOf("PUBLIC KEY", x509.MarshalPKCS1PublicKey(&r[2048].PublicKey)), "SPKI under RSA PUBLIC KEY": pemOf("RSA PUBLIC KEY", must(x509.MarshalPKIXPublicKey(r[2048].Public()))),
		"a private key": pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(p256))), "trailing bytes": pemOf("PUBLIC KEY", append(must(x509.MarshalPKIXPublicKey(p256.Public())), 0)), "empty block": pemOf("PUBLIC KEY", nil),
		"broken base64": strings.Replace(text, "M", "!", 1), "no end": text[:60], "garbage DER": pemOf("PUBLIC KEY", []byte{0x30, 0x80, 1, 2, 3}), "huge": "-----BEGIN PUBLIC KEY-----\n" + strings.Repeat("A", 20000) + "\n-----END PUBLIC KEY-----\n",
		"JWK": `{"kty":"EC"}`, "OpenSSH": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== x",
	} {
		no("key: "+name, ask{publicKey: key, proof: good}, "400")
	}
	spki := must(x509.MarshalPKIXPublicKey(p256.Public()))
	cases = append(cases,
		proofCase{name: "key in DER", ask: ask{publicKey: string(spki), proof: good}, pub: p256.Public(), only: restV1},
		proofCase{name: "RSA key in DER", ask: ask{publicKey: string(x509.MarshalPKCS1PublicKey(&r[2048].PublicKey)), proof: sign(r[2048], person)}, pub: r[2048].Public(), only: restV1},
		proofCase{name: "key in DER with a byte behind", ask: ask{publicKey: string(spki) + "\n", proof: good}, refuse: "400", only: restV1},
		proofCase{name: "CSR wins over a broken key", ask: ask{publicKey: "x", csr: pemOf("CERTIFICATE REQUEST", csrOf(p384, 0))}, pub: p384.Public(), only: restV1},
		proofCase{name: "CSR wins over a good key", ask: ask{publicKey: text, proof: good, csr: pemOf("CERTIFICATE REQUEST", csrOf(p384, 0))}, pub: p384.Public(), only: restV1},
		proofCase{name: "broken CSR wins over a good key", ask: ask{publicKey: text, proof: good, csr: "x"}, refuse: "400", only: restV1},
		proofCase{name: "both", ask: ask{publicKey: text, proof: good, csr: pemOf("CERTIFICATE REQUEST", csrOf(p384, 0))}, refuse: "400 REQUEST_MALFORMED", only: restV2},
	)

	// Weak and unsupported keys; the policy is checked before the proof.
	weak := map[string]string{}
	small := map[string]string{}
	small["RSA-1024"] = publicPEM(r[1024].Public())
	small["RSA-2056"] = publicPEM(r[2056].Public())
	small["P-224"] = publicPEM(p224.Public())
	small["E=3"] = publicPEM(&rsa.PublicKey{N: r[2048].N, E: 3})
	small["E=65539"] = publicPEM(&rsa.PublicKey{N: r[2048].N, E: 65539})
	small["DSA"] = pemOf("PUBLIC KEY", must(hex.DecodeString("301d300f06072a8648ce3804013004020103020105030a00020700aabbccddeeff"))[:31])
	small["X25519"] = pemOf("PUBLIC KEY", append(must(hex.DecodeString("302a300506032b656e032100")), make([]byte, 32)...))
	small["Ed448"] = pemOf("PUBLIC KEY", append(must(hex.DecodeString("3043300506032b6571033a00")), make([]byte, 57)...))
	small["secp256k1"] = pemOf("PUBLIC KEY", must(hex.DecodeString("3056301006072a8648ce3d020106052b8104000a0342000479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")))
	point := elliptic.MarshalCompressed(elliptic.P256(), p256.X, p256.Y)
	small["compressed point"] = pemOf("PUBLIC KEY", append(must(hex.DecodeString("3039301306072a8648ce3d020106082a8648ce3d030107032200")), point...))
	small["RSA-PSS key"] = strings.Replace(publicPEM(r[2048].Public()), "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A", "MIIBIDALBgkqhkiG9w0BAQoDggEPADCC", 1)
	off := append([]byte(nil), spki...)
	off[len(off)-1] ^= 1
	weak["point off the curve"] = pemOf("PUBLIC KEY", off)
	prime := must(rand.Prime(rand.Reader, 1024))
	close := new(big.Int).Add(prime, big.NewInt(2))
	for !close.ProbablyPrime(10) {
		close.Add(close, big.NewInt(2))
	}
	for n := new(big.Int); ; {
		if n.Mul(prime, close).BitLen() == 2048 {
			weak["close primes"] = publicPEM(&rsa.PublicKey{N: n, E: 65537})
			break
		}
		prime = must(rand.Prime(rand.Reader, 1024))
		close.Add(prime, big.NewInt(2))
		for !close.ProbablyPrime(10) {
			close.Add(close, big.NewInt(2))
		}
	}
	for _, p := range []int64{7, 743} {
		n := new(big.Int).Lsh(big.NewInt(1), 2047) // and a large cofactor, which need not be prime
		n.Add(n, must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 2040))))
		n.Sub(n, new(big.Int).Mod(n, big.NewInt(2*p)))
		weak["a factor of "+big.NewInt(p).String()] = publicPEM(&rsa.PublicKey{N: n.Add(n, big.NewInt(p)), E: 65537})
	}
	even := new(big.Int).Lsh(big.NewInt(1), 2047)
	weak["even modulus"] = publicPEM(&rsa.PublicKey{N: even.Add(even, big.NewInt(1024)), E: 65537})
	weak["ROCA"] = publicPEM(&rsa.PublicKey{N: roca(), E: 65537})
	for i, y := range []string{"0000000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000000", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"} {
		weak["Ed25519 of small order "+string(rune('0'+i))] = publicPEM(ed25519.PublicKey(must(hex.DecodeString(y))))
	}
	for name, key := range small {
		no(name, ask{publicKey: key, proof: good}, "400")
	}
	for name, key := range weak {
		no(name, ask{publicKey: key, proof: good}, "400 KEY_WEAK")
	}
	no("RSA-1024 CSR", ask{csr: pemOf("CERTIFICATE REQUEST", csrOf(r[1024], x509.SHA256WithRSA))}, "400 KEY_UNSUPPORTED")
	no("P-224 CSR", ask{csr: pemOf("CERTIFICATE REQUEST", csrOf(p224, x509.ECDSAWithSHA256))}, "400 KEY_UNSUPPORTED")

	// The forms of a CSR.
	csr := csrOf(p256, 0)
	csrText := pemOf("CERTIFICATE REQUEST", csr)
	yes("CSR with text around", ask{csr: "Certificate Request:\n    Data:\n" + csrText + "bye"}, p256.Public())
	yes("CSR with CRLF", ask{csr: strings.ReplaceAll(csrText, "\n", "\r\n")}, p256.Public())
	yes("the first of two CSRs", ask{csr: csrText + pemOf("CERTIFICATE REQUEST", csrOf(p384, 0))}, p256.Public())
	for name, refused := range map[string]string{
		"P-256 CSR with SHA-512": pemOf("CERTIFICATE REQUEST", csrOf(p256, x509.ECDSAWithSHA512)), "P-256 CSR with SHA-384": pemOf("CERTIFICATE REQUEST", csrOf(p256, x509.ECDSAWithSHA384)), "P-384 CSR with SHA-256": pemOf("CERTIFICATE REQUEST", csrOf(p384, x509.ECDSAWithSHA256)),
		"RSA-PSS CSR": pemOf("CERTIFICATE REQUEST", csrOf(r[2048], x509.SHA256WithRSAPSS)), "RSA CSR with SHA-512": pemOf("CERTIFICATE REQUEST", csrOf(r[2048], x509.SHA512WithRSA)), "CSR under CERTIFICATE": pemOf("CERTIFICATE", csr),
		"a certificate as CSR": pemOf("CERTIFICATE REQUEST", w.chain[0].Raw), "trailing bytes": pemOf("CERTIFICATE REQUEST", append(csr[:len(csr):len(csr)], 0)), "empty CSR block": pemOf("CERTIFICATE REQUEST", nil), "a public key as CSR": text, "text as CSR": "hello", "cut CSR": csrText[:100],
		"huge CSR": "-----BEGIN CERTIFICATE REQUEST-----\n" + strings.Repeat("A", 30000) + "\n-----END CERTIFICATE REQUEST-----\n",
	} {
		no(name, ask{csr: refused}, "400 CSR_INVALID")
	}
	swapped := pemOf("CERTIFICATE REQUEST", resigned(csr, csrOf(newKey(), 0)))
	no("CSR with another's signature", ask{csr: swapped}, "400 PROOF_INVALID")
	return cases
}

// resigned is CSR a with the signature of b.
func resigned(a, b []byte) []byte {
	type request struct {
		Info      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	var x, y request
	must(asn1.Unmarshal(a, &x))
	must(asn1.Unmarshal(b, &y))
	x.Signature = y.Signature
	return must(asn1.Marshal(x))
}

// roca makes a modulus as CVE-2017-15361 did: primes k·M + (65537^a mod M), M a primorial.
func roca() *big.Int {
	m := big.NewInt(1)
	for n, found := int64(2), 0; found < 126; n++ {
		if big.NewInt(n).ProbablyPrime(10) {
			m.Mul(m, big.NewInt(n))
			found++
		}
	}
	prime := func() *big.Int {
		for {
			p := new(big.Int).Exp(big.NewInt(65537), must(rand.Int(rand.Reader, m)), m)
			k := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 56)))
			for range 200 {
				k.Add(k, big.NewInt(1))
				q := new(big.Int).Mul(k, m)
				if q.Add(q, p).BitLen() == 1024 && q.ProbablyPrime(5) {
					return q
				}
			}
		}
	}
	for {
		if n := new(big.Int).Mul(prime(), prime()); n.BitLen() == 2048 {
			return n
		}
	}
}

func TestProof(t *testing.T) {
	t.Parallel()
	token := mint("email", email.payload("email"))
	var cases []proofCase
	fips140.WithoutEnforcement(func() { cases = proofCases() }) // clients may have weak keys
	for i, tt := range cases {
		for j, api := range apis {
			if tt.only != "" && tt.only != api {
				continue
			}
			c := []*ca{w.logged, w.unlogged}[(i+j)%2]
			if api == overG && tt.only == "" && !valid(tt.ask) || api == restV2 && !valid(tt.ask) {
				continue
			}
			t.Run(tt.name+"/"+api, func(t *testing.T) {
				t.Parallel()
				a := tt.ask
				a.token = token
				g := c.do(t, api, a)
				if tt.refuse != "" {
					g.refused(t, tt.refuse)
					return
				}
				g.certificate(t, c, tt.pub, w.base+"/email", "subject", personName)
			})
		}
	}
}

// valid reports whether a JSON string can contain the public key.
func valid(a ask) bool { return strings.ToValidUTF8(a.publicKey, "") == a.publicKey }

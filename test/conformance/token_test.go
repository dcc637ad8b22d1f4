// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const person = "a@example.com"

var personName = name{san: "email:" + person}

// tokenCase is a token of type email, for person; refuse is "" where a certificate is expected.
type tokenCase struct {
	name, token, refuse string
	issuer              string        // "" for email
	made                func() string // mints a token with a short lifetime when it is used
}

// tokenCases are the cases with tokens of the issuers at path. path takes the name of a provider.
func tokenCases(path func(provider string) string) []tokenCase {
	var cases []tokenCase
	yes := func(name, token string) { cases = append(cases, tokenCase{name: name, token: token}) }
	no := func(name, token, refuse string) {
		cases = append(cases, tokenCase{name: name, token: token, refuse: refuse})
	}
	at := func(issuer, name, token, refuse string) {
		cases = append(cases, tokenCase{name: name, token: token, refuse: refuse, issuer: issuer})
	}
	key := w.providers["email"].SigningKey()
	good := email.payload(path("email"))
	header := func(members string) string { return fmt.Sprintf(`{"alg":"ES256","kid":%q%s}`, key.KeyID, members) }
	jwsOf := func(h, p string) string { return jws(h, p, key) }
	minted := jwsOf(header(""), good)
	parts := strings.Split(minted, ".")

	// Algorithms: what each issuer's discovery lists, and no others.
	for _, issuer := range []string{"rs256", "rs384", "rs512", "ps256", "ps384", "ps512", "es384", "es512", "eddsa"} {
		at(issuer, "algorithm", mint(issuer, email.payload(issuer)), "")
	}
	rs := w.providers["rs256"].SigningKey()
	asPS := rs
	asPS.Algorithm = "PS256"
	at("rs256", "PS256 where RS256 is listed", jws(fmt.Sprintf(`{"alg":"PS256","kid":%q}`, rs.KeyID), email.payload(path("rs256")), asPS), "401 SIGNATURE_INVALID")
	asRS512 := rs
	asRS512.Algorithm = "RS512"
	at("rs256", "RS512 where RS256 is listed", jws(fmt.Sprintf(`{"alg":"RS512","kid":%q}`, rs.KeyID), email.payload(path("rs256")), asRS512), "401 SIGNATURE_INVALID")
	at("rs256", "alg says RS512, signature is RS256", jws(fmt.Sprintf(`{"alg":"RS512","kid":%q}`, rs.KeyID), email.payload(path("rs256")), rs), "401 SIGNATURE_INVALID")
	no("alg says RS256, key is ES256", jwsOf(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, key.KeyID), good), "401 SIGNATURE_INVALID")
	no("alg says ES384", jwsOf(fmt.Sprintf(`{"alg":"ES384","kid":%q}`, key.KeyID), good), "401 SIGNATURE_INVALID")
	for _, alg := range []string{"none", "None", "NONE", "nOnE"} {
		no("alg "+alg, b64(`{"alg":"`+alg+`"}`)+"."+b64(good)+".", "401")
		no("alg "+alg+" with a signature", jwsOf(`{"alg":"`+alg+`"}`, good), "401")
	}
	spki := must(x509.MarshalPKIXPublicKey(key.Key.(*ecdsa.PrivateKey).Public()))
	for name, secret := range map[string][]byte{"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), "DER": spki, "nothing": nil} {
		input := b64(fmt.Sprintf(`{"alg":"HS256","kid":%q}`, key.KeyID)) + "." + b64(good)
		fips140.WithoutEnforcement(func() { // an attacker's key may be short
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(input))
			no("HS256 with "+name, input+"."+b64(string(mac.Sum(nil))), "401 SIGNATURE_INVALID")
		})
	}
	for _, h := range []string{`{}`, `{"alg":1}`, `{"alg":null}`, `{"alg":""}`, `{"alg":"es256"}`, `{"alg":["ES256"]}`, `{"ALG":"ES256"}`, `{"alg":"ES256K"}`, `{"alg":"ES256","alg":"ES256"}`, `{"alg":"ES256","Alg":"none"}`, `null`, `[]`, `"x"`, ``, `{"alg":"ES256"`, `{"alg":"ES256"}x`, `{"alg":"dir","enc":"A256GCM"}`} {
		no("header "+h, jwsOf(h, good), "401")
	}

	// Header parameters.
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	otherKey := jose.JSONWebKey{Key: other, KeyID: key.KeyID, Algorithm: "ES256"}
	jwk := string(must(json.Marshal(jose.JSONWebKey{Key: other.Public(), Algorithm: "ES256"})))
	no("another's key", jws(header(""), good, otherKey), "401 SIGNATURE_INVALID")
	no("another's key in jwk", jws(header(`,"jwk":`+jwk), good, otherKey), "401 SIGNATURE_INVALID")
	no("another's key in jwk without kid", jws(`{"alg":"ES256","jwk":`+jwk+`}`, good, otherKey), "401 SIGNATURE_INVALID")
	no("jku", jws(header(`,"jku":"http://127.0.0.1:1/keys"`), good, otherKey), "401 SIGNATURE_INVALID")
	no("x5u", jws(header(`,"x5u":"http://127.0.0.1:1/keys"`), good, otherKey), "401 SIGNATURE_INVALID")
	no("x5c", jws(header(`,"x5c":["`+base64.StdEncoding.EncodeToString(w.chain[1].Raw)+`"]`), good, otherKey), "401 SIGNATURE_INVALID")
	yes("jku is not used", jwsOf(header(`,"jku":"http://127.0.0.1:1/keys"`), good))
	yes("jwk is not used", jwsOf(header(`,"jwk":`+jwk), good))
	yes("x5t is not used", jwsOf(header(`,"x5t":"AAAA","x5u":"https://x.example"`), good))
	no("crit", jwsOf(header(`,"crit":["exp"],"exp":1`), good), "401")
	no("crit of b64", jwsOf(header(`,"crit":["b64"],"b64":true`), good), "401")
	no("empty crit", jwsOf(header(`,"crit":[]`), good), "401")
	no("b64 false", jwsOf(header(`,"b64":false`), good), "401")
	for _, typ := range []string{`"JWT"`, `"jwt"`, `"at+jwt"`, `"x"`} {
		yes("typ "+typ, jwsOf(header(`,"typ":`+typ), good))
	}
	yes("cty and more", jwsOf(header(`,"cty":"JWT","foo":{"bar":[1]}`), good))
	yes("no kid", jwsOf(`{"alg":"ES256"}`, good))
	no("unknown kid", jwsOf(`{"alg":"ES256","kid":"nobody"}`, good), "401 SIGNATURE_INVALID")
	no("kid a path", jwsOf(`{"alg":"ES256","kid":"../../etc/passwd"}`, good), "401 SIGNATURE_INVALID")
	no("kid a number", jwsOf(`{"alg":"ES256","kid":1}`, good), "401")
	rotated := email.payload(path("rotated"))
	now := w.providers["rotated"].SigningKey()
	at("rotated", "new key", mint("rotated", rotated), "")
	at("rotated", "old key", jws(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, w.oldKey.KeyID), rotated, w.oldKey), "")
	at("rotated", "old key without kid", jws(`{"alg":"RS256"}`, rotated, w.oldKey), "")
	at("rotated", "wrong kid of the two", jws(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, now.KeyID), rotated, w.oldKey), "401 SIGNATURE_INVALID")
	at("rotated", "withdrawn key", jws(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, w.gone.KeyID), rotated, w.gone), "401 SIGNATURE_INVALID")
	at("rotated", "withdrawn key without kid", jws(`{"alg":"RS256"}`, rotated, w.gone), "401 SIGNATURE_INVALID")
	at("email", "token of another issuer's key", jws(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, rs.KeyID), good, rs), "401 SIGNATURE_INVALID")

	// The compact form.
	sig := must(base64.RawURLEncoding.DecodeString(parts[2]))
	for name, token := range map[string]string{
		"no signature": parts[0] + "." + parts[1] + ".", "two segments": parts[0] + "." + parts[1], "one segment": parts[0], "four segments": minted + ".x", "trailing dot": minted + ".",
		"five segments": parts[0] + "..x.y.z", "dots": strings.Repeat(".", 10000), "many dots": strings.Repeat(".", 40000), "two dots": "..", "padding": minted + "=", "padded header": parts[0] + "=." + parts[1] + "." + parts[2],
		"space inside": parts[0] + " ." + parts[1] + "." + parts[2], "newline inside": parts[0] + "." + parts[1][:10] + "\n" + parts[1][10:] + "." + parts[2], "not base64": parts[0] + "." + parts[1] + ".!!",
		"standard base64": parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+/", "truncated signature": minted[:len(minted)-4], "changed signature": parts[0] + "." + parts[1] + "." + b64(string(append([]byte{sig[0] ^ 1}, sig[1:]...))),
		"zero signature": parts[0] + "." + parts[1] + "." + b64(strings.Repeat("\x00", 64)), "changed payload": parts[0] + "." + b64(email.with("email", `"b@example.com"`).payload(path("email"))) + "." + parts[2],
		"text": "not a token", "JSON serialization": fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2]), "byte order mark": "\ufeff" + minted, "signature too long": parts[0] + "." + parts[1] + "." + b64(string(sig)+"\x00"),
		"DER signature":       parts[0] + "." + parts[1] + "." + b64(string(sign(key.Key.(*ecdsa.PrivateKey), parts[0]+"."+parts[1]))),
		"Bearer in the token": "Bearer " + minted, "NUL after it": minted + "\x00",
	} {
		no(name, token, "4")
	}
	yes("white space around", " \t"+minted+" \r\n")
	no("too large", jwsOf(header(""), email.with("pad", quoted(strings.Repeat("p", 16<<10))).payload("email")), "401 TOKEN_MALFORMED")
	yes("large", jwsOf(header(""), email.with("pad", quoted(strings.Repeat("p", 11<<10))).payload("email")))
	no("too large and no token", strings.Repeat("a", 17<<10), "401 TOKEN_MALFORMED")

	// The payload.
	for _, p := range []string{``, `null`, `[]`, `"x"`, `{}`, `{`, good + "x", good + good, "[" + good + "]", strings.TrimSuffix(good, "}") + `,}`, strings.Replace(good, ":", "=", 1), "{'iss':'x'}", strings.TrimSuffix(good, "}") + `,"x":01}`,
		strings.TrimSuffix(good, "}") + `,"x":NaN}`, strings.TrimSuffix(good, "}") + `,"x":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`, strings.TrimSuffix(good, "}") + `,"email":"b@example.com"}`,
		strings.TrimSuffix(good, "}") + `,"email":"a@example.com"}`, strings.TrimSuffix(good, "}") + `,"Email":"b@example.com"}`, strings.TrimSuffix(good, "}") + `,"ISS":"https://evil.example"}`, strings.TrimSuffix(good, "}") + `,"EXP":99999999999}`,
		strings.TrimSuffix(good, "}") + `,"i\u017fs":"https://evil.example"}`, strings.TrimSuffix(good, "}") + `,"\u0065mail":"b@example.com"}`, strings.TrimSuffix(good, "}") + `,"x":{"a":1,"A":2}}`, strings.TrimSuffix(good, "}") + `,"x":[{"a":1,"a":1}]}`,
		strings.TrimSuffix(good, "}") + `,"email_Verified":true}`, strings.TrimSuffix(good, "}") + `/**/}`, "\ufeff" + good, strings.TrimSuffix(good, "}") + ",\"x\":\"a\nb\"}"} {
		no("payload "+shortened(p), jwsOf(header(""), p), "401")
	}
	yes("white space in the payload", jwsOf(header(""), " \n"+strings.TrimSuffix(good, "}")+"\t}\r\n"))
	yes("escaped names", jwsOf(header(""), strings.Replace(good, `"email":`, `"\u0065mail":`, 1)))

	// Times.
	n := time.Now().Unix()
	set := func(pairs ...string) string { return jwsOf(header(""), email.with(pairs...).payload("email")) }
	for _, exp := range []string{fmt.Sprint(n - 2), fmt.Sprint(n - 3600), "0", "-1", "1"} {
		no("exp="+exp, set("exp", exp), "401 TOKEN_EXPIRED")
	}
	for _, exp := range []string{"", "null"} {
		no("exp="+exp, set("exp", exp), "401 CLAIM_MISSING")
	}
	for _, exp := range []string{`""`, `"soon"`, "true", "[]", "1e300", "1e400", quoted(fmt.Sprint(n + 600))} {
		no("exp="+exp, set("exp", exp), "401")
	}
	for _, exp := range []string{fmt.Sprintf("%.3e", float64(n+10000000)), "4102444800", "253402300800"} {
		yes("exp="+exp, set("exp", exp))
	}
	for _, format := range []string{"%d", "%d.5"} {
		cases = append(cases, tokenCase{name: "exp in a minute, " + format, made: func() string { return set("exp", fmt.Sprintf(format, time.Now().Unix()+60)) }})
	}
	for _, nbf := range []string{fmt.Sprint(n - 10), fmt.Sprint(n + 280), "0", fmt.Sprintf("%d.9", n)} {
		yes("nbf="+nbf, set("nbf", nbf))
	}
	no("nbf=4102444800", set("nbf", "4102444800"), "401 TOKEN_NOT_YET_VALID")
	cases = append(cases, tokenCase{name: "nbf in six minutes", refuse: "401 TOKEN_NOT_YET_VALID", made: func() string { return set("nbf", fmt.Sprint(time.Now().Unix()+360)) }})
	for _, nbf := range []string{`"x"`, "[]", "1e400"} {
		no("nbf="+nbf, set("nbf", nbf), "401")
	}
	for _, iat := range []string{"", "0", fmt.Sprint(n + 86400), fmt.Sprintf("%d.25", n), "4102444800"} {
		yes("iat="+iat, set("iat", iat))
	}

	// Audiences.
	for _, aud := range []string{`"sigstore"`, `["sigstore"]`, `["a","sigstore"]`, `["sigstore","sigstore"]`} {
		yes("aud="+aud, set("aud", aud))
	}
	for _, aud := range []string{"", `""`, "[]", `"Sigstore"`, `" sigstore"`, `"sigstore "`, `"sigstore,x"`, `["a"]`, `"sig"`, `"https://sigstore"`} {
		no("aud="+aud, set("aud", aud), "401 AUDIENCE_MISMATCH")
	}
	for _, aud := range []string{"1", "null", "true", `{"sigstore":1}`, `[1,"sigstore"]`, `[["sigstore"]]`} {
		no("aud="+aud, set("aud", aud), "401")
	}
	yes("azp does not matter", set("azp", `"other"`, "aud", `["sigstore","x"]`))
	return cases
}

// find returns the case that is like c, with another token.
func find(cases []tokenCase, c tokenCase) tokenCase {
	i := slices.IndexFunc(cases, func(o tokenCase) bool { return o.name == c.name && o.issuer == c.issuer && o.refuse == c.refuse })
	return cases[i]
}

func shortened(s string) string {
	if len(s) > 90 {
		return s[:20] + "…" + s[len(s)-65:]
	}
	return s
}

// The server refuses a bad signature with a final answer only if it read the keys after the request
// arrived, or shortly before. Later, it reads an issuer for this at most twice a minute, and the
// answer in between is a 503. Each token with a bad signature therefore has an issuer of its own,
// with the same keys.
func TestToken(t *testing.T) {
	t.Parallel()
	for i, tt := range tokenCases(func(provider string) string { return provider }) {
		issuer := tt.issuer
		if issuer == "" {
			issuer = "email"
		}
		if tt.refuse == "4" || tt.refuse == "401 SIGNATURE_INVALID" {
			same := func(provider string) string { return fmt.Sprintf("%s%s-%d", freshIssuer, provider, i) }
			tt = find(tokenCases(same), tt)
		}
		c := []*ca{w.logged, w.unlogged}[i%2]
		for _, api := range apis {
			if strings.ContainsAny(tt.token, "\x00\n\r\t\ufeff") && api == restV1 {
				continue // a header cannot contain it
			}
			t.Run(issuer+"/"+tt.name+"/"+api, func(t *testing.T) {
				t.Parallel()
				key, token := newKey(), tt.token
				if tt.made != nil {
					token = tt.made()
				}
				g := c.do(t, api, ask{token: token, publicKey: publicPEM(key.Public()), proof: sign(key, person)})
				switch {
				case tt.refuse == "4":
					if g.http != 401 && g.http != 400 {
						t.Errorf("got %d %s (%s)", g.http, g.reason, g.message)
					}
				case tt.refuse != "":
					g.refused(t, tt.refuse)
				default:
					g.certificate(t, c, key.Public(), w.base+"/"+issuer, "subject", personName)
				}
				if g.http >= 400 && len(token) > 40 && strings.Contains(g.body, token[:40]) {
					t.Error("the token is in the answer")
				}
			})
		}
	}
}

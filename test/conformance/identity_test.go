// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type identityCase struct {
	name   string
	issuer string
	claims claims
	sign   string // the signed value; "" for email or sub, as the type requires
	refuse string // otherwise, the refusal
	want   name
}

var email = claims{"email": `"a@example.com"`, "email_verified": "true"}

// loadedCase is a token in testdata/identity.yaml, for one of its issuers.
type loadedCase struct {
	Name, From, Sign, Refuse, Want, SAN string
	Set                                 claims
	Ext                                 map[int]string
}

// identityCases reads testdata/identity.yaml, which describes its own form. HOST is that of the issuers.
func identityCases() (cases []identityCase) {
	var file struct {
		Claims map[string]claims
		Names  map[string]struct {
			SAN string
			Ext map[int]string
		}
		Cases map[string][]loadedCase
	}
	content := bytes.ReplaceAll(must(os.ReadFile("testdata/identity.yaml")), []byte("HOST"), []byte(strings.TrimPrefix(w.base, "http://")))
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		panic(err)
	}
	for _, issuer := range slices.Sorted(maps.Keys(file.Cases)) {
		for _, c := range file.Cases[issuer] {
			known := file.Names[c.Want]
			cases = append(cases, identityCase{
				name: c.Name, issuer: issuer, claims: file.Claims[c.From].with(), sign: c.Sign, refuse: c.Refuse, want: name{known.SAN, known.Ext}.but(c.SAN, c.Ext),
			})
			last := &cases[len(cases)-1]
			for member, value := range c.Set {
				last.claims[member] = value
				if c.Name == "" {
					last.name = member + "=" + value
				}
			}
		}
	}
	// YAML cannot contain it.
	return append(cases, identityCase{name: "not UTF-8 in sub", issuer: "email", claims: email.with("sub", "\"a\xffb\""), refuse: "401"})
}

// but returns n with some extensions changed; "" omits one.
func (n name) but(san string, changes map[int]string) name {
	ext := map[int]string{}
	for k, v := range n.ext {
		ext[k] = v
	}
	for k, v := range changes {
		if v == "" {
			delete(ext, k)
		} else {
			ext[k] = v
		}
	}
	if san == "" {
		san = n.san
	}
	return name{san, ext}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	cases := identityCases()
	seen := map[string]bool{}
	for i, tt := range cases {
		if seen[tt.issuer+tt.name] {
			t.Errorf("case %s/%s twice", tt.issuer, tt.name)
		}
		seen[tt.issuer+tt.name] = true
		for j, c := range []*ca{w.logged, w.unlogged} {
			t.Run(tt.issuer+"/"+tt.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				payload := tt.claims.payload(tt.issuer)
				challenge := tt.sign
				var m map[string]any
				_ = json.Unmarshal([]byte(payload), &m)
				if challenge == "" {
					challenge, _ = m["sub"].(string)
					if tt.want.san == "" || len(tt.want.san) > 6 && tt.want.san[:6] == "email:" {
						if s, ok := m["email"].(string); ok {
							challenge = s
						}
					}
				}
				key := newKey()
				g := c.do(t, apis[(i+j)%3], ask{token: mint(tt.issuer, payload), publicKey: publicPEM(key.Public()), proof: sign(key, challenge)})
				if tt.refuse != "" {
					g.refused(t, tt.refuse)
					return
				}
				sub, _ := m["sub"].(string)
				g.certificate(t, c, key.Public(), fmt.Sprint(m["iss"]), sub, tt.want)
			})
		}
	}
}

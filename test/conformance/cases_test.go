// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// caseList collects the cases of the functions in this file, each for some types of issuers.
type caseList []identityCase

// add adds a token that gets a certificate; sign, if given, is the signed value.
func (l *caseList) add(issuer, title string, c claims, want name, sign ...string) {
	*l = append(*l, identityCase{name: title, issuer: issuer, claims: c, want: want, sign: strings.Join(sign, "")})
}

// no adds a token that is refused.
func (l *caseList) no(issuer, name string, c claims, refuse string) {
	*l = append(*l, identityCase{name: name, issuer: issuer, claims: c, refuse: refuse})
}

func identityCases() []identityCase {
	var cases caseList
	emailCases(&cases)
	workloadCases(&cases)
	subjectCases(&cases)
	wildcardCases(&cases)
	providerCases(&cases)
	templateCases(&cases)
	olderCases(&cases)
	return cases
}

func emailCases(l *caseList) {
	add, no := l.add, l.no

	// Type email.
	add("email", "verified", email, mailName("a@example.com"))
	add("email", "verified as text", email.with("email_verified", `"true"`), mailName("a@example.com"))
	add("email", "verified as Text", email.with("email_verified", `"True"`), mailName("a@example.com"))
	for _, v := range []string{"false", `"false"`, `"False"`, ""} {
		no("email", "email_verified="+v, email.with("email_verified", v), "401 EMAIL_UNVERIFIED")
		add("email-skip", "email_verified="+v, email.with("email_verified", v), mailName("a@example.com"))
	}
	for _, v := range []string{`"TRUE"`, `"yes"`, "1", "0", `""`, "[]", "{}", `"1"`, `"tRue"`, `" true"`} {
		no("email", "email_verified="+v, email.with("email_verified", v), "401")
		no("email-skip", "email_verified="+v, email.with("email_verified", v), "401")
	}
	no("email", "email_verified=null", email.with("email_verified", "null"), "401")
	for _, a := range []string{"A.B+c@Sub.Example.COM", "a@1.example", "x!#$%&'*+-/=?^_`{|}~@e.example", "a@b.co", "a@3com.c-m", "a.b.c@xn--bcher-kva.example"} {
		add("email", a, email.with("email", quoted(a)), mailName(a))
	}
	for _, a := range []string{
		"", "a", "a@b", "@b.example", "a@", "a@b.example.", "a@.example", "a..b@c.example", ".a@c.example", "a.@c.example", `"a b"@c.example`, "a@[127.0.0.1]",
		"a@127.0.0.1", "a@b.c1", "a@b.1c", "a@b.-c", "a b@c.example", "Alice <a@b.example>", "a@b@c.example", "é@b.example", "a@é.example", "a@b.example\n", "a@b.example\x00",
		" a@b.example", "a@b_c.example", "a(comment)@b.example", "a,b@c.example", "a@b.example,c@d.example", "a@-b.example", "a@b..example", "mailto:a@b.example", "a\\@b@c.example",
	} {
		no("email", "address "+quoted(a), email.with("email", quoted(a)), "401")
	}
	for _, v := range []string{"null", "1", "true", `["a@example.com"]`, "{}", ""} {
		no("email", "email="+v, email.with("email", v), "401")
	}
	for _, v := range []string{"null", `""`, "1", "[]", ""} {
		no("email", "sub="+v, email.with("sub", v), "401")
	}
	add("email", "unicode sub", email.with("sub", `"üñí 😀 <&>\u2028"`), mailName("a@example.com"))
	no("email", "control in sub", email.with("sub", `"a\u0000b"`), "401 CLAIM_INVALID")
	no("email", "newline in sub", email.with("sub", `"a\nb"`), "401 CLAIM_INVALID")
	no("email", "DEL in sub", email.with("sub", `"a\u007fb"`), "401 CLAIM_INVALID")
	no("email", "C1 control in sub", email.with("sub", `"a\u0085b"`), "401 CLAIM_INVALID")
	no("email", "lone surrogate in sub", email.with("sub", `"a\ud800b"`), "401")
	no("email", "not UTF-8 in sub", email.with("sub", "\"a\xffb\""), "401")
	no("email", "lone surrogate elsewhere", email.with("x", `"a\ud800b"`), "401")
	add("email", "long sub", email.with("sub", quoted(strings.Repeat("s", 300))), mailName("a@example.com"))
	add("email", "sub of 128 bytes", email.with("sub", quoted(strings.Repeat("s", 128))), mailName("a@example.com"))
	add("email", "odd claims that nobody reads", email.with("a", "null", "b", `[1,{"c":[]}]`, "d", "1e400", "e", `{"":{"":""}}`, "", "1", "f.g", "true"), mailName("a@example.com"))
	add("email-domains", "in the list", email.with("email_verified", ""), mailName("a@example.com"))
	add("email-domains", "in the list, upper case", email.with("email", `"A@EXAMPLE.com"`), mailName("A@EXAMPLE.com"))
	no("email-domains", "outside", email.with("email", `"a@sub.example.com"`), "403 POLICY_DENIED")
	add("challenge", "what is signed stays email", email, mailName("a@example.com"), "a@example.com")
	*l = append(*l, identityCase{name: "sub signed", issuer: "challenge", claims: email, refuse: "400 PROOF_INVALID", sign: "subject"})
	add("slash/", "trailing slash", email, mailName("a@example.com"))
	add("audiences", "first", email.with("aud", `"primary"`), mailName("a@example.com"))
	add("audiences", "second", email.with("aud", `["x","secondary"]`), mailName("a@example.com"))
	no("audiences", "neither", email, "401 AUDIENCE_MISMATCH")

	// issuer-claim.
	dex := func(v string) claims { return email.with("federated_claims", v) }
	add("email-claim", "replaced", dex(`{"connector_id":"https://accounts.google.com","user_id":"1"}`), name{"email:a@example.com", map[int]string{1: "https://accounts.google.com", 8: "https://accounts.google.com"}})
	add("email-claim", "any text", dex(`{"connector_id":"google é <&>"}`), name{"email:a@example.com", map[int]string{1: "google é <&>", 8: "google é <&>"}})
	for _, v := range []string{"", "null", "{}", `{"connector_id":""}`, `{"connector_id":null}`, `{"connector_id":1}`, `{"connector_id":["x"]}`, `"x"`, `[]`, `{"Connector_id":"x"}`, `{"connector_id":"a\u0001"}`} {
		no("email-claim", "federated_claims="+v, dex(v), "401")
	}
	add("email-bracket", "names with dots", email.with("federated.claims", `{"id":"x.y"}`), name{"email:a@example.com", map[int]string{1: "x.y", 8: "x.y"}})
	no("email-bracket", "not by dots", email.with("federated", `{"claims":{"id":"x"}}`), "401")

}

func workloadCases(l *caseList) {
	add, no := l.add, l.no
	// Type kubernetes.
	add("kubernetes", "full", kube(`"ns-1"`, `"sa.b-c"`), uriName("https://kubernetes.io/namespaces/ns-1/serviceaccounts/sa.b-c"), "subject")
	add("kubernetes", "sub is signed", kube(`"default"`, `"default"`).with("sub", `"system:serviceaccount:default:default"`, "email", `"a@example.com"`), uriName("https://kubernetes.io/namespaces/default/serviceaccounts/default"), "system:serviceaccount:default:default")
	add("kubernetes", "long name", kube(`"n"`, quoted(strings.Repeat("s", 253))), uriName("https://kubernetes.io/namespaces/n/serviceaccounts/"+strings.Repeat("s", 253)))
	no("kubernetes", "name too long", kube(`"n"`, quoted(strings.Repeat("s", 254))), "401 CLAIM_INVALID")
	add("kubernetes", "minimal", claims{"kubernetes.io": `{"namespace":"n","serviceaccount":{"name":"s"}}`}, uriName("https://kubernetes.io/namespaces/n/serviceaccounts/s"))
	for _, v := range []string{
		"", "null", "{}", `"x"`, "[]", `{"namespace":"n"}`, `{"serviceaccount":{"name":"s"}}`, `{"namespace":"","serviceaccount":{"name":"s"}}`, `{"namespace":"n","serviceaccount":{"name":""}}`,
		`{"namespace":"n","serviceaccount":{}}`, `{"namespace":"n","serviceaccount":"s"}`, `{"namespace":null,"serviceaccount":{"name":"s"}}`, `{"namespace":"n","serviceaccount":{"name":null}}`,
		`{"namespace":1,"serviceaccount":{"name":"s"}}`, `{"namespace":"n/x","serviceaccount":{"name":"s"}}`, `{"namespace":"n","serviceaccount":{"name":"s/t"}}`, `{"namespace":"..","serviceaccount":{"name":"s"}}`,
		`{"Namespace":"n","serviceaccount":{"name":"s"}}`, `{"namespace":"n","serviceaccount":{"name":"s"},"Namespace":"m"}`, `{"namespace":"n%2fx","serviceaccount":{"name":"s"}}`,
	} {
		no("kubernetes", "kubernetes.io="+v, claims{"kubernetes.io": v}, "401")
	}

	// Type spiffe.
	for _, id := range []string{"spiffe://example.com/a", "spiffe://example.com/ns/A_b-c.D/sa/0", "spiffe://example.com", "spiffe://example.com/.../a", "spiffe://example.com/" + strings.Repeat("a/", 100) + "b"} {
		add("spiffe", id, claims{"sub": quoted(id)}, uriName(id))
	}
	add("spiffe-id", "trust domain as an ID", claims{"sub": `"spiffe://a_b-c.example/x"`}, uriName("spiffe://a_b-c.example/x"))
	for _, id := range []string{
		"", "example.com/a", "SPIFFE://example.com/a", "spiffe://Example.com/a", "spiffe://example.com.evil/a", "spiffe://evil-example.com/a", "spiffe://sub.example.com/a", "spiffe://example.com/",
		"spiffe://example.com/a/", "spiffe://example.com//a", "spiffe://example.com/../a", "spiffe://example.com/./a", "spiffe://example.com/a b", "spiffe://example.com/a%20b", "spiffe://example.com/a?b=c",
		"spiffe://example.com/a#b", "spiffe://u@example.com/a", "spiffe://example.com:80/a", "spiffe:/example.com/a", "https://example.com/a", "spiffe:///a", "spiffe://example.com/é", " spiffe://example.com/a", "spiffe://example.com/a\n",
	} {
		no("spiffe", quoted(id), claims{"sub": quoted(id)}, "401")
	}

}

func subjectCases(l *caseList) {
	add, no := l.add, l.no
	// Type uri.
	for _, id := range []string{
		"http://127.0.0.1/a", "http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1:9/a", "http://127.0.0.1/a%20b?c=d#e",
		"http://127.0.0.1/a//b", "http://127.0.0.1/%C3%A9", "http://127.0.0.1/a?", "http://127.0.0.1/job/app/job/feature%252Flogin/", "http://127.0.0.1/a%2Fb%2f",
	} {
		add("uri", quoted(id), claims{"sub": quoted(id)}, uriName(id), id)
		add("wild/uri/a", quoted(id), claims{"sub": quoted(id)}, uriName(id), id)
	}
	for _, id := range []string{
		"https://127.0.0.1/a", "http://127.0.0.2/a", "http://127.0.0.1.evil/a", "http://evil/127.0.0.1", "http://u@127.0.0.1/a", "http://u:p@127.0.0.1/a", "http://@127.0.0.1/a", "http://127.0.0.1@evil/a", "127.0.0.1/a", "//127.0.0.1/a", "/a", "a@example.com",
		"http:127.0.0.1", "http://127.0.0.1/%zz", "http://127.0.0.1/a\n", "http://127.0.0.1\\@evil/", "http://localhost/a",
		// Formatting would not preserve these, so that two subjects would have one name.
		"http://127.0.0.1/a b", "http://127.0.0.1/é", "HTTP://127.0.0.1/a", "http://127.0.0.1/a#", "http://127.0.0.1/a%2Fb c",
	} {
		no("uri", quoted(id), claims{"sub": quoted(id)}, "401")
	}

	// Type username.
	for _, u := range []string{"alice", "Alice B", "a/b:c", "ünï", "a@b", "a%20b", "<&>", strings.Repeat("u", 200)} {
		add("username", quoted(u), claims{"sub": quoted(u)}, name{san: "user:" + u + "!127.0.0.1"})
		add("wild/username/a", quoted(u), claims{"sub": quoted(u)}, name{san: "user:" + u + "!127.0.0.1"})
	}
	for _, u := range []string{"", "a!b", "!", "a@example.com", "a!b@example.com", "a\u0000", "a\tb"} {
		no("username", quoted(u), claims{"sub": quoted(u)}, "401")
	}

	// Type chainguard-identity.
	iss := w.base + "/chainguard"
	add("chainguard", "sub signed", claims{"sub": `"abc/def"`}, uriName(iss+"/abc/def"), "abc/def")
	add("chainguard", "email signed", email.with("sub", `"abc"`), uriName(iss+"/abc"), "a@example.com")
	*l = append(*l, identityCase{name: "email there, sub signed", issuer: "chainguard", claims: email.with("sub", `"abc"`), refuse: "400 PROOF_INVALID", sign: "abc"})
	no("chainguard", "email unverified", email.with("email_verified", "false"), "401 EMAIL_UNVERIFIED")
	no("chainguard", "email without email_verified", email.with("email_verified", ""), "401 EMAIL_UNVERIFIED")
	add("chainguard", "act", claims{"sub": `"abc"`, "act": `{"iss":"x","sub":"y"}`}, uriName(iss+"/abc"))
	add("chainguard", "empty act", claims{"sub": `"abc"`, "act": `{}`}, uriName(iss+"/abc"))
	for _, v := range []string{`"x"`, `["x"]`, `{"a":1}`, `{"a":{"b":"c"}}`, "1"} {
		no("chainguard", "act="+v, claims{"sub": `"abc"`, "act": v}, "401")
	}
	add("chainguard", "space", claims{"sub": `"a b"`}, uriName(iss+"/a%20b"))
	add("chainguard", "question mark", claims{"sub": `"a?b"`}, uriName(iss+"/a%3Fb"))
	add("chainguard", "escape", claims{"sub": `"a%2Fb"`}, uriName(iss+"/a%2Fb"))
	no("chainguard", "bad escape", claims{"sub": `"a%zzb"`}, "401")
	no("chainguard", "double slash", claims{"sub": `"a//b"`}, "401 CLAIM_INVALID")
	no("chainguard", "leading slash", claims{"sub": `"/a"`}, "401 CLAIM_INVALID")
	no("chainguard", "escaped space", claims{"sub": `"a%20b"`}, "401 CLAIM_INVALID")
	no("chainguard", "escaped question mark", claims{"sub": `"a%3Fb"`}, "401 CLAIM_INVALID")
	add("chainguard", "trailing slash", claims{"sub": `"a/"`}, uriName(iss+"/a/"))
	no("chainguard", "dots", claims{"sub": `"../../a"`}, "401")
	add("wild/chainguard/a", "wildcard", claims{"sub": `"x"`}, uriName(w.base+"/wild/chainguard/a/x"))

}

func wildcardCases(l *caseList) {
	add, no := l.add, l.no
	add("wild/email/a", "matches", email, mailName("a@example.com"))
	add("wild/kubernetes/a-1_B", "matches", kube(`"n"`, `"s"`), uriName("https://kubernetes.io/namespaces/n/serviceaccounts/s"))
	add("wild/kubernetes/b/", "matches with slash", kube(`"n"`, `"s"`), uriName("https://kubernetes.io/namespaces/n/serviceaccounts/s"))
	add("wild/github/ent", "matches", githubClaims, githubWant)
	add("wild/ci/a/x", "matches", buildkiteClaims, buildkiteWant)
	add("wild/ci/special/x", "more literal segments win", githubClaims, githubWant)
	add("wild/old/a-hub", "star inside a segment", githubClaims, githubWant.but("", map[int]string{23: ""}))
	add("wild/gitlab/a", "matches", gitlabClaims, gitlabWant.but("", map[int]string{23: ""}))
	add("wild/codefresh/a", "matches", codefreshClaims, codefreshWant)
	add("wild/buildkite/a", "matches", buildkiteClaims, uriName("https://buildkite.com/o/p"))
	add("wild/static", "static wins", email.with("aud", `"static"`), mailName("a@example.com"))
	no("wild/static", "static wins over the wildcard's audience", email.with("aud", `"wildcard"`), "401 AUDIENCE_MISMATCH")
	no("wild/email/a/b", "one segment too many", email, "401 ISSUER_NOT_CONFIGURED")
	no("wild/email/a.b", "a star takes no dot", email, "401 ISSUER_NOT_CONFIGURED")
	no("wild/email/", "a star takes no empty run", email, "401 ISSUER_NOT_CONFIGURED")
	no("unknown", "not configured", email, "401 ISSUER_NOT_CONFIGURED")
	for _, iss := range []string{
		"https://evil.example/?" + w.base + "/wild/email/a", w.base + "/wild/email/a?x", w.base + "/wild/email/a#x", strings.Replace(w.base, "http://", "http://u@", 1) + "/wild/email/a",
		w.base + "/wild/email/a%2fb", w.base + "/wild/email/%61", strings.ToUpper(w.base) + "/wild/email/a", w.base + "/wild/EMAIL/a", w.base + "/wild/email/a/", w.base + "/email/", w.base + "/slash", w.base + "//wild/email/a",
		w.base + "/wild/email/a\n", " " + w.base + "/email", w.base + "/wild/email/../email/a", w.base, "email", strings.Replace(w.base, "http", "https", 1) + "/email", w.base + "/wild/email/é", "*", w.base + "/wild/email/*",
	} {
		*l = append(*l, identityCase{name: "iss " + quoted(iss), issuer: "email", claims: email.with("iss", quoted(iss)), refuse: "401 ISSUER_NOT_CONFIGURED"})
	}
	for _, v := range []string{"", "null", `""`, "1", `["x"]`, "{}"} {
		no("email", "iss="+v, email.with("iss", v), "401")
	}
}

type ext = map[int]string

// providerCases has every CI provider of type ci-provider, with all claims and with the fewest.
func providerCases(l *caseList) {
	add, no := l.add, l.no
	add("github", "full", githubClaims, githubWant)
	add("github", "no environment", githubClaims.with("environment", ""), githubWant.but("", ext{23: ""}))
	add("github", "empty environment", githubClaims.with("environment", `""`), githubWant.but("", ext{23: ""}))
	add("github", "GitHub Enterprise", githubClaims.with("url", `"https://ghe.Example:8443"`), githubWant.but("uri:https://ghe.Example:8443/o/s/.github/workflows/w.yml@refs/tags/v1", ext{
		9: "https://ghe.Example:8443/o/s/.github/workflows/w.yml@refs/tags/v1", 12: "https://ghe.Example:8443/o/r", 16: "https://ghe.Example:8443/o",
		18: "https://ghe.Example:8443/o/r/.github/workflows/c.yml@refs/heads/main", 21: "https://ghe.Example:8443/o/r/actions/runs/33/attempts/4"}))
	add("github", "numbers and booleans", githubClaims.with("repository_id", "1536140711", "repository_owner_id", "1.50", "run_id", "1000000", "run_attempt", "1e3", "workflow_sha", "true", "job_workflow_sha", "false", "sha", "-0", "ref", "9007199254740992", "event_name", "1e-7"),
		githubWant.but("", ext{15: "1536140711", 17: "1.5", 21: "https://github.com/o/r/actions/runs/1000000/attempts/1000", 19: "true", 10: "false", 3: "-0", 13: "-0", 6: "9007199254740992", 14: "9007199254740992", 2: "0.0000001", 20: "0.0000001"}))
	for _, v := range []string{"9007199254740993", "123456789012345678901234567890", "1e400", "-9007199254740993", "1e21", "18446744073709551615"} {
		no("github", "repository_id="+v, githubClaims.with("repository_id", v), "401")
	}
	for name := range githubClaims {
		if name != "environment" && name != "sub" {
			no("github", "without "+name, githubClaims.with(name, ""), "401 CLAIM_MISSING")
		}
		if name != "environment" {
			no("github", name+" null", githubClaims.with(name, "null"), "401")
		}
	}
	add("github", "environment null", githubClaims.with("environment", "null"), githubWant.but("", ext{23: ""}))
	for _, v := range []string{"o/s/w.yml@refs/heads/main#", "o/s/w.yml@refs/heads/main?", "o/s/w.yml@refs/heads/gr%C3%B6%C3%9Fe", "o/s/w.yml@refs/heads/a%20b", "o/s/w.yml@refs/heads/a%2Fb c"} {
		no("github", "job_workflow_ref="+v, githubClaims.with("job_workflow_ref", quoted(v)), "401 CLAIM_INVALID")
	}
	no("github", "url with a path", githubClaims.with("url", `"https://github.com/o"`), "401 CLAIM_INVALID")
	no("github", "claim as array", githubClaims.with("sha", `["a"]`), "401")
	no("github", "claim as object", githubClaims.with("sha", `{}`), "401")
	no("github", "optional claim as array", githubClaims.with("environment", `[]`), "401")
	add("github", "empty claim of an extension", githubClaims.with("workflow", `""`), githubWant.but("", ext{4: ""}))
	no("github", "empty claim of the SAN", githubClaims.with("job_workflow_ref", `""`), "401 CLAIM_MISSING")
	no("github", "empty default of the SAN", githubClaims.with("url", `""`), "401 CLAIM_MISSING")
	add("github", "text that looks like a template", githubClaims.with("workflow", `"{{.sha}} ${x} %s"`), githubWant.but("", ext{4: "{{.sha}} ${x} %s"}))
	add("github", "HTML and spaces", githubClaims.with("workflow", `" <a href=\"x\">&amp;'</a> "`), githubWant.but("", ext{4: ` <a href="x">&amp;'</a> `}))
	add("github", "unicode", githubClaims.with("workflow", `"Löschen 😀\u2028\u202e"`), githubWant.but("", ext{4: "Löschen 😀\u2028\u202e"}))
	for _, v := range []string{`"a\nb"`, `"a\u0000"`, `"\u001b[31m"`, `"a\u007f"`, `"a\u009f"`, `"a\tb"`, `"\r"`} {
		no("github", "workflow="+v, githubClaims.with("workflow", v), "401 CLAIM_INVALID")
	}
	add("github", "claims that differ from others in case of the first letter only", githubClaims.with("Shaa", `"x"`), githubWant)
	no("github", "claims told apart by case", githubClaims.with("SHA", `"x"`), "401")

	add("gitlab", "branch", gitlabClaims, gitlabWant)
	add("gitlab", "tag", gitlabClaims.with("ref_type", `"tag"`, "ref", `"v1"`, "environment", ""), gitlabWant.but("", ext{14: "refs/tags/v1", 23: ""}))
	add("gitlab", "another ref_type is a tag", gitlabClaims.with("ref_type", `"x"`), gitlabWant.but("", ext{14: "refs/tags/main"}))
	add("gitlab", "numbers", gitlabClaims.with("project_id", "1", "namespace_id", "20", "job_id", "300"), gitlabWant.but("", ext{17: "20", 21: "https://gitlab.com/g/p/-/jobs/300"}))
	add("gitlab", "self-hosted", gitlabClaims.with("ci_config_ref_uri", `"gl.example:8443/g/p//x.yml@refs/heads/main"`), gitlabWant.but("uri:https://gl.example:8443/g/p//x.yml@refs/heads/main", ext{9: "https://gl.example:8443/g/p//x.yml@refs/heads/main", 18: "https://gl.example:8443/g/p//x.yml@refs/heads/main"}))
	no("gitlab", "without ci_config_sha", gitlabClaims.with("ci_config_sha", ""), "401 CLAIM_MISSING")
	no("gitlab", "without ref_type", gitlabClaims.with("ref_type", ""), "401 CLAIM_MISSING")
	no("gitlab", "ci_config_ref_uri with an empty fragment", gitlabClaims.with("ci_config_ref_uri", `"gitlab.com/g/p//x@main#"`), "401 CLAIM_INVALID")
	no("gitlab", "ci_config_ref_uri null", gitlabClaims.with("ci_config_ref_uri", "null"), "401")

	add("codefresh", "full", codefreshClaims, codefreshWant)
	add("codefresh", "fewest", codefreshClaims.with("platform_url", "", "runner_environment", "", "scm_repo_url", "", "scm_ref", ""),
		name{"uri:https://g.codefresh.io/acc/proj/pipe:a1/p2", ext{9: "https://g.codefresh.io/build/w3", 18: "https://g.codefresh.io/api/pipelines/p2", 21: "https://g.codefresh.io/build/w3"}})
	no("codefresh", "without account_name", codefreshClaims.with("account_name", ""), "401 CLAIM_MISSING")
	no("codefresh", "relative platform_url", codefreshClaims.with("platform_url", `"cf.example"`), "401")
	no("codefresh", "user-info", codefreshClaims.with("platform_url", `"https://u@cf.example"`), "401")
	no("codefresh", "path without host", codefreshClaims.with("platform_url", `"/x"`), "401")
	no("codefresh", "scheme alone", codefreshClaims.with("platform_url", `"https:"`), "401")
	add("codefresh", "spaces in the name", codefreshClaims.with("pipeline_name", `"my proj/my pipe"`), codefreshWant.but("uri:https://cf.example/acc/my%20proj/my%20pipe:a1/p2", nil))

	add("buildkite", "full", buildkiteClaims, buildkiteWant)
	add("buildkite", "build number as text", buildkiteClaims.with("build_number", `"007"`), buildkiteWant.but("", ext{21: "https://buildkite.com/o/p/builds/007#j-1"}))
	for name := range buildkiteClaims {
		if name != "sub" {
			no("buildkite", "without "+name, buildkiteClaims.with(name, ""), "401 CLAIM_MISSING")
		}
	}

	add("circleci", "full", circleClaims, circleWant)
	add("circleci", "not rerun", circleClaims.with("oidc.circleci.com/ssh-rerun", "false"), circleWant.but("", ext{11: `""`}))
	add("circleci", "ssh-rerun as text", circleClaims.with("oidc.circleci.com/ssh-rerun", `"true"`), circleWant)
	add("circleci", "without vcs", circleClaims.with("oidc.circleci.com/ssh-rerun", "", "oidc.circleci.com/vcs-origin", "", "oidc.circleci.com/vcs-ref", ""), circleWant.but("", ext{11: `""`, 12: "", 14: ""}))
	add("circleci", "index of a missing key is empty", circleClaims.with("oidc.circleci.com/workflow-id", "", "oidc.circleci.com/job-id", ""), circleWant.but("", ext{21: "https://app.circleci.com//workflow//job/"}))
	no("circleci", "a missing claim of the SAN", circleClaims.with("oidc.circleci.com/project-id", ""), "401 CLAIM_MISSING")
	no("circleci", "an empty claim of the SAN", circleClaims.with("oidc.circleci.com/pipeline-definition-id", `""`), "401 CLAIM_MISSING")
	no("circleci", "vcs-ref null", circleClaims.with("oidc.circleci.com/vcs-ref", "null"), "401")

	add("buddy", "full", buddyClaims, buddyWant)
	add("buddy", "fewest", buddyClaims.with("revision", "", "ref", ""), buddyWant.but("", ext{13: "", 14: ""}))
	no("buddy", "without execution_id", buddyClaims.with("execution_id", ""), "401 CLAIM_MISSING")

}

// templateCases has templates and URLs at their edges.
func templateCases(l *caseList) {
	add, no := l.add, l.no
	odd := func(v string) claims { return claims{"v": quoted(v), "a.b/c d": `"dotted"`} }
	oddWant := func(v, san string, changes ext) name {
		return name{"uri:https://ci.example/" + san, ext{
			2: v, 3: v, 4: `"` + v + `"|     `, 5: "dotted", 6: v, 10: v, 11: "[ " + v + " ]", 12: "no w", 13: "<" + v + ">", 14: "not x", 15: "the default",
			16: "{{ .v }}", 17: v, 18: v,
		}}.but("", changes)
	}
	add("odd", "plain", odd("abc"), oddWant("abc", "abc", ext{9: "3", 20: "ab"}))
	add("odd", "x", odd("x"), oddWant("x", "x", ext{9: "1", 14: "is x", 20: "xa"}))
	add("odd", "with", odd("ab").with("w", `"W"`), oddWant("ab", "ab", ext{9: "2", 12: "w=W", 20: "ab"}))
	add("odd", "space", odd("a b"), oddWant("a b", "a%20b", ext{6: "a+b", 9: "3", 20: "a "}))
	add("odd", "HTML", odd(`<b>&"'`), oddWant(`<b>&"'`, "%3Cb%3E&%22%27", ext{2: "&lt;b&gt;&amp;&#34;&#39;", 4: `"<b>&\"'"|     `, 6: "%3Cb%3E%26%22%27", 9: "6", 18: `\u003Cb\u003E\u0026\"\'`, 20: "<b"}))
	add("odd", "apostrophe", odd("it's"), oddWant("it's", "it's", ext{2: "it&#39;s", 6: "it%27s", 9: "4", 18: `it\'s`, 20: "it"}))
	for _, v := range []string{"a%20b", "%22", "%27", "%7b", "%7D", "%5C", "%c3%a9", "%00", "%5E", "%60", "%7C", "a#", "a?", "a%2fb c", "a#b%23"} {
		no("odd", "indistinct "+v, odd(v), "401 CLAIM_INVALID")
	}
	add("odd", "escaped slash and percent sign", odd("a%2Fb%252Fc"), oddWant("a%2Fb%252Fc", "a%2Fb%252Fc", ext{6: "a%252Fb%25252Fc", 9: "11", 20: "a%"}))
	add("odd", "escaped letter", odd("%41%2f"), oddWant("%41%2f", "%41%2f", ext{6: "%2541%252f", 9: "6", 20: "%4"}))
	no("odd", "bad escape", odd("100%"), "401 CLAIM_INVALID")
	no("odd", "bad escape in the middle", odd("a%zzb"), "401 CLAIM_INVALID")
	add("odd", "unicode", odd("é"), oddWant("é", "%C3%A9", ext{6: "%C3%A9", 9: "2", 20: "é"}))
	add("odd", "query", odd("a?x=<1>&y=#f"), oddWant("a?x=<1>&y=#f", "a?x=<1>&y=#f", ext{2: "a?x=&lt;1&gt;&amp;y=#f", 6: "a%3Fx%3D%3C1%3E%26y%3D%23f", 9: "12", 18: `a?x\u003D\u003C1\u003E\u0026y\u003D#f`, 20: "a?"}))
	add("odd", "double slash", odd("a//b"), oddWant("a//b", "a//b", ext{6: "a%2F%2Fb", 9: "4", 20: "a/"}))
	add("odd", "colon and at", odd("a:b@c"), oddWant("a:b@c", "a:b@c", ext{6: "a%3Ab%40c", 9: "5", 20: "a:"}))
	add("odd", "brackets", odd("[a]^|"), oddWant("[a]^|", "%5Ba%5D%5E%7C", ext{6: "%5Ba%5D%5E%7C", 9: "5", 20: "[a"}))
	add("odd", "backslash", odd(`a\b`), oddWant(`a\b`, "a%5Cb", ext{4: `"a\\b"|     `, 6: "a%5Cb", 9: "3", 18: `a\\b`, 20: `a\`}))
	add("odd", "plus", odd("a+b"), oddWant("a+b", "a+b", ext{6: "a%2Bb", 9: "3", 20: "a+"}))
	add("odd", "leading and trailing spaces", odd(" a "), oddWant(" a ", "%20a%20", ext{6: "+a+", 9: "3", 20: " a"}))
	add("odd", "a claim beats a default", odd("abc").with("fallback", `"mine"`, "opt", `"o"`), oddWant("abc", "abc", ext{4: `"abc"|    o`, 9: "3", 15: "mine", 19: "o", 20: "ab"}))
	add("odd", "number", odd("").with("v", "42.0"), oddWant("42", "42", ext{9: "2", 20: "42"}))
	no("odd", "without v", claims{}, "401 CLAIM_MISSING")
	no("odd", "dot segments", odd("a/../b"), "401 CLAIM_INVALID")
	no("odd", "newline", odd("a\nb"), "401 CLAIM_INVALID")

	ref := claims{"ref": `"o/r"`}
	add("optional", "without the part", ref, uriName("https://github.com/o/r"))
	add("optional", "empty", ref.with("enterprise", `""`), uriName("https://github.com/o/r"))
	add("optional", "null", ref.with("enterprise", "null"), uriName("https://github.com/o/r"))
	add("optional", "with the part", ref.with("enterprise", `"octo"`), uriName("https://octo.ghe.com/o/r"))
	no("optional", "without ref", claims{"enterprise": `"octo"`}, "401 CLAIM_MISSING")
	no("optional", "url empty", ref.with("url", `""`), "401 CLAIM_MISSING")

	host := func(h string) claims { return claims{"host": quoted(h)} }
	for in, san := range map[string]string{
		"https://Example.COM/x": "", "https://h:8443/x": "", "https://[::1]:80/x": "", "https://h": "", "https://h/": "", "https://h?q": "", "ftp://h/x": "", "urn+x://h/x": "",
		"https://h/x?a=é b": "", "arn:aws:iam::123456789012:role/build": "", "urn:x:y": "", "urn:x:Y%20z?q#f": "", "mailto:a@b.c": "", "x-build:/a//b": "",
	} {
		if san == "" {
			san = in
		}
		if strings.Contains(san, "é b") {
			no("host", in, host(in), "401") // an IA5String cannot hold it
			continue
		}
		add("host", in, host(in), name{"uri:" + san, ext{9: "https://" + in + "/x"}})
	}
	for _, in := range []string{"x", "/x", "//h/x", "https:", "https://", "https:///x", "https:h/x", "https://u@h/x", "https://u:p@h/x", "https://@h/x", "https://h x/y", "https://h:port/x", "http://[::1/x", "HTTPS://h/x", "URN:x:y", "arn:", "arn:a:b#", "arn:a:role/../b", "arn:%zz", "x-build:///a", ":", " https://h/x", "https://%41.example/x", "https://é.example/x", "https://h/%", "1https://h/x"} {
		no("host", quoted(in), host(in), "401")
	}

}

// olderCases has the four types that are older than ci-provider.
func olderCases(l *caseList) {
	add, no := l.add, l.no
	old := githubWant.but("", ext{23: ""})
	add("github-old", "full", githubClaims, old)
	add("github-old", "without environment", githubClaims.with("environment", ""), old)
	add("github-old", "environment of another kind", githubClaims.with("environment", "1"), old)
	add("github-old", "joined", githubClaims.with("repository", `"/o//r/"`, "repository_owner", `"o p"`), old.but("", ext{5: "/o//r/", 12: "https://github.com/o/r/", 16: "https://github.com/o%20p", 21: "https://github.com/o/r/actions/runs/33/attempts/4"}))
	add("github-old", "url claim is not read", githubClaims.with("url", `"https://evil.example"`), old)
	for name := range githubClaims {
		if name == "environment" || name == "sub" {
			continue
		}
		no("github-old", "without "+name, githubClaims.with(name, ""), "401 CLAIM_MISSING")
		no("github-old", name+" empty", githubClaims.with(name, `""`), "401 CLAIM_MISSING")
		no("github-old", name+" null", githubClaims.with(name, "null"), "401 CLAIM_MISSING")
		no("github-old", name+" a number", githubClaims.with(name, "1"), "401 CLAIM_INVALID")
	}
	no("github-old", "bad escape", githubClaims.with("job_workflow_ref", `"o/r%zz"`), "401")
	no("github-old", "bad escape in an extension", githubClaims.with("repository", `"o/r%"`), "401")

	oldGitlab := gitlabWant.but("", ext{23: ""})
	add("gitlab-old", "full", gitlabClaims, oldGitlab)
	add("gitlab-old", "tag", gitlabClaims.with("ref_type", `"tag"`), oldGitlab.but("", ext{14: "refs/tags/main"}))
	add("gitlab-old", "without ci_config_sha and project_visibility", gitlabClaims.with("ci_config_sha", "", "project_visibility", ""), oldGitlab.but("", ext{10: "", 19: "", 22: ""}))
	add("gitlab-old", "null ci_config_sha", gitlabClaims.with("ci_config_sha", "null"), oldGitlab.but("", ext{10: "", 19: ""}))
	for _, v := range []string{"http://gitlab.com/g/p//x@y", "https://gitlab.com/g/p//x@y", "//gitlab.com/g/p//x@y", "gitlab.com/g/p//x@y#", "gitlab.com/g%20p//x@y"} {
		no("gitlab-old", "ci_config_ref_uri="+v, gitlabClaims.with("ci_config_ref_uri", quoted(v)), "401 CLAIM_INVALID")
	}
	add("gitlab-old", "space in ci_config_ref_uri", gitlabClaims.with("ci_config_ref_uri", `"gitlab.com/g p//x@y"`), oldGitlab.but("uri:https://gitlab.com/g%20p//x@y", ext{9: "https://gitlab.com/g%20p//x@y", 18: "https://gitlab.com/g%20p//x@y"}))
	add("gitlab-old", "negative runner_id", gitlabClaims.with("runner_id", "-1"), oldGitlab)
	for _, name := range []string{"ci_config_ref_uri", "runner_environment", "project_path", "sha", "ref", "ref_type", "project_id", "namespace_path", "namespace_id", "pipeline_source", "job_id", "pipeline_id", "runner_id"} {
		no("gitlab-old", "without "+name, gitlabClaims.with(name, ""), "401 CLAIM_MISSING")
		no("gitlab-old", name+" null", gitlabClaims.with(name, "null"), "401")
		no("gitlab-old", name+" a list", gitlabClaims.with(name, `["x"]`), "401 CLAIM_INVALID")
	}
	for _, v := range []string{"0", `"1"`, "1.5", "1e400", "true"} {
		no("gitlab-old", "runner_id="+v, gitlabClaims.with("runner_id", v), "401")
	}
	no("gitlab-old", "ref_type x", gitlabClaims.with("ref_type", `"x"`), "401 CLAIM_INVALID")
	no("gitlab-old", "ci_config_ref_uri with a port", gitlabClaims.with("ci_config_ref_uri", `"gitlab.com:8443/g"`), "401")
	no("gitlab-old", "ci_config_sha a number", gitlabClaims.with("ci_config_sha", "1"), "401")

	add("codefresh-old", "full", codefreshClaims, codefreshWant)
	add("codefresh-old", "empty platform_url", codefreshClaims.with("platform_url", `""`, "runner_environment", "", "scm_repo_url", "", "scm_ref", ""),
		name{"uri:https://g.codefresh.io/acc/proj/pipe:a1/p2", ext{9: "https://g.codefresh.io/build/w3", 18: "https://g.codefresh.io/api/pipelines/p2", 21: "https://g.codefresh.io/build/w3"}})
	for _, change := range [][]string{
		{"platform_url", `"https://cf.example/"`}, {"platform_url", `"https://cf.example/acc"`}, {"account_name", `"acc/proj"`}, {"account_name", `"a:c"`},
		{"pipeline_name", `"proj/pi:pe"`}, {"account_id", `"a/1"`}, {"account_name", ""}, {"pipeline_name", `"proj//pipe"`},
	} {
		no("codefresh-old", change[0]+"="+change[1], codefreshClaims.with(change...), "401 CLAIM_INVALID")
	}
	for _, name := range []string{"account_id", "pipeline_id", "workflow_id"} {
		no("codefresh-old", "without "+name, codefreshClaims.with(name, ""), "401 CLAIM_MISSING")
	}
	no("codefresh-old", "relative platform_url", codefreshClaims.with("platform_url", `"cf.example"`), "401")

	bare := uriName("https://buildkite.com/o/p")
	add("buildkite-old", "full", buildkiteClaims, bare)
	add("buildkite-old", "fewest", claims{"organization_slug": `"o"`, "pipeline_slug": `"p"`}, bare)
	add("buildkite-old", "double slash stays", claims{"organization_slug": `"o"`, "pipeline_slug": `"/p"`}, uriName("https://buildkite.com/o//p"))
	no("buildkite-old", "slash in the organization", claims{"organization_slug": `"o/x"`, "pipeline_slug": `"p"`}, "401 CLAIM_INVALID")
	no("buildkite-old", "without pipeline_slug", claims{"organization_slug": `"o"`}, "401 CLAIM_MISSING")
	no("buildkite-old", "without organization_slug", claims{"pipeline_slug": `"o"`}, "401 CLAIM_MISSING")
}

func mailName(a string) name { return name{san: "email:" + a} }

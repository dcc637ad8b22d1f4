// SPDX-License-Identifier: Apache-2.0

package migrate_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/migrate"
)

const chartYAML = `config:
  contents:
    OIDCIssuers:
      https://kubernetes.default.svc: {IssuerURL: https://kubernetes.default.svc, ClientID: sigstore, Type: kubernetes}
server:
  replicaCount: 3
  svcPort: 80
  grpcSvcPort: 5554
  secret: our-secret
  args:
    port: 5555
    grpcPort: 5554
    certificateAuthority: fileca
    hsm_caroot_id: ""
    kms_resource: ""
    ct_log_url: https://log.example/2026
    ct_log_origin: log
    disable_ct_log: false
  image: {registry: ghcr.io}
  serviceAccount: {create: true, annotations: {a: b}}
  livenessProbe: {httpGet: {path: /healthz}}
  securityContext: {runAsNonRoot: true, runAsUser: 65533}
  ingress:
    http:
      enabled: true
      className: nginx
      annotations: {n: h}
      hosts: [{host: fulcio.example, path: /}]
      tls: [{secretName: fulcio-tls, hosts: [fulcio.example]}]
    grpc:
      enabled: true
      annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}
      hosts: [{host: fulcio.example, path: /}]
podLabels: {team: pki}
tolerations: [{key: k, operator: Exists}]
nodeSelector: {pool: pki}
affinity: {nodeAffinity: {}}
`

// The values of Fulcio's chart become values that mayfly's chart accepts; the key stays in its Secret.
func TestChartValues(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	values := f.write(t, "values.yaml", chartYAML)
	set := []string{"ct-log-public-key-path=" + f.dir + "/log.pub"}
	_, err := run(t, migrate.Options{HelmValues: values, Set: set})
	lacks(t, "the error", fmt.Sprint(err), "fileca-cert: the chain of the authority is missing: export it: kubectl get secret ", values+":19:3: the value server.image is not known")
	out := must(run(t, migrate.Options{HelmValues: values, Set: append(set, "fileca-cert="+f.dir+"/chain.pem"), Ignore: []string{"server.image"}}))(t)
	got := conforms(t, file(t, out, "values.yaml"))
	for path, want := range map[string]any{
		"host": "fulcio.example", "replicaCount": 3, "ca.keys.secret": "our-secret", "ca.keys.from": "secret", "service.httpPort": 80, "service.grpcPort": 5554,
		"config.public_url": "https://fulcio.example", "ingress.enabled": true, "ingress.className": "nginx", "ingress.tlsSecret": "fulcio-tls", "ingress.http.annotations.n": "h", "podLabels.team": "pki",
		"nodeSelector.pool": "pki", "serviceAccount.annotations.a": "b", "kubernetesIssuer.enabled": true, "ct.files.log|pub": file(t, f.dir, "log.pub"), "ca.files.chain|pem": file(t, f.dir, "chain.pem"),
		"issuers.content": file(t, out, "issuers.yaml"),
	} {
		if found := at(got, path); found != want {
			t.Errorf("%s is %v, want %v", path, found, want)
		}
	}
	inChart, _ := at(got, "ca.files.ca|yaml").(string)
	parsed, _, err := config.ParseCASet("/etc/mayfly/ca/ca.yaml", []byte(inChart))
	if err != nil || parsed.Authorities[0].Signer.File.Key != "/etc/mayfly/ca/private" || parsed.Authorities[0].Chain != "/etc/mayfly/ca/chain.pem" {
		t.Errorf("ca.yaml of the chart: %v\n%s", err, inChart)
	}
	lacks(t, "report.md", file(t, out, "report.md"), "| `server.image` |  | not migrated", "| `podLabels` |  | podLabels |")

	// A chain in the values, identities as text, and no log.
	chain := strings.ReplaceAll(file(t, f.dir, "chain.pem"), "\n", "\n      ")
	text := f.write(t, "text.yaml", "config:\n  contents: |\n    # ours\n    oidc-issuers: {https://a.example: {issuer-url: https://a.example, client-id: sigstore, type: email}}\n"+
		"server:\n  args:\n    certificateAuthority: kmsca\n    kms_resource: awskms:///alias/ca\n    disable_ct_log: true\n    kms_cert_chain: |\n      "+chain+"\n")
	out = must(run(t, migrate.Options{HelmValues: text}))(t)
	got = conforms(t, file(t, out, "values.yaml"))
	if at(got, "ca.keys.from") != "none" || at(got, "config.ct.disabled") != true || at(got, "ca.files.chain|pem") != file(t, out, "chain.pem") {
		t.Errorf("values: %v", got)
	}
	if issuers := file(t, out, "issuers.yaml"); !strings.HasPrefix(issuers, "# ours\n") {
		t.Errorf("issuers.yaml: %s", issuers)
	}
}

// Each ingress that is not enabled, and a log that is disabled, is left out. What mayfly's chart cannot hold is a mistake.
func TestChartValuesOfOtherTypes(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	const source = "config: {contents: {OIDCIssuers: {https://a.example: {IssuerURL: https://a.example, ClientID: sigstore, Type: email}}}}\nserver:\n" +
		"  args: {certificateAuthority: fileca, ct_log_url: https://log.example, disable_ct_log: True}\n  replicaCount: 0\n  ingress:\n" +
		"    http: {enabled: false, className: a, hosts: [{host: a.example}], tls: [{secretName: a}]}\n    grpc: {enabled: true, className: b, hosts: [{host: b.example}], tls: [{secretName: b}]}\n"
	set := []string{"fileca-cert=" + f.dir + "/chain.pem"}
	out := must(run(t, migrate.Options{HelmValues: f.write(t, "values.yaml", source), Set: set}))(t)
	got := conforms(t, file(t, out, "values.yaml"))
	for path, want := range map[string]any{"host": "b.example", "ingress.className": "b", "ingress.tlsSecret": "b", "replicaCount": 0, "config.ct.disabled": true, "config.public_url": "https://b.example"} {
		if found := at(got, path); found != want {
			t.Errorf("%s is %v, want %v", path, found, want)
		}
	}
	wrong := f.write(t, "wrong.yaml", strings.NewReplacer("True", `"false"`, "Count: 0", "Count: x", "enabled: false", "enabled: true").Replace(source))
	_, err := run(t, migrate.Options{HelmValues: wrong, Set: set})
	lacks(t, "the error", fmt.Sprint(err), `:3:73: server.args.disable_ct_log: found "false", expected true or false without quotes`, `:4:3: server.replicaCount: found "x", expected a whole number`,
		wrong+": server.ingress: found the hosts a.example, b.example, and mayfly's chart has one host")
}

// The values from flags are those of mayfly's chart too, with each kind of key.
func TestValuesFromFlags(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	conf := f.write(t, "crypto11.conf", `{"Path": "/lib/m.so", "TokenLabel": "fulcio", "Pin": "2324"}`)
	for flags, want := range map[string]string{
		f.flags("--port=443 --ct-log.tls-ca-cert=" + f.dir + "/chain.pem --ct-log-url=https://log.example"):                     "secret",
		f.flags("--ca=kmsca --kms-resource=awskms:///alias/ca --kms-cert-chain-path=" + f.dir + "/chain.pem"):                   "none",
		f.flags("--ca=pkcs11ca --aws-hsm-root-ca-path=" + f.dir + "/chain.pem --pkcs11-config-path=" + conf + " --ct-log-url="): "secret",
	} {
		out := must(run(t, migrate.Options{Flags: flags}))(t)
		got := conforms(t, file(t, out, "values.yaml"))
		if from := at(got, "ca.keys.from"); from != want {
			t.Errorf("%s: keys from %v, want %s", flags, from, want)
		}
		for _, secret := range []string{f.password, "2324"} {
			if strings.Contains(file(t, out, "values.yaml"), secret) {
				t.Errorf("%s: the values have a secret", flags)
			}
		}
	}
}

// at returns the value at a path with dots; | stands for a dot in a key.
func at(v any, path string) any {
	for key := range strings.SplitSeq(path, ".") {
		object, _ := v.(map[string]any)
		v = object[strings.ReplaceAll(key, "|", ".")]
	}
	return v
}

// conforms checks values against the schema of mayfly's chart.
func conforms(t *testing.T, text string) map[string]any {
	t.Helper()
	var schema, values map[string]any
	must(0, json.Unmarshal(must(os.ReadFile("../deploy/helm/mayfly/values.schema.json"))(t), &schema))(t)
	must(0, yaml.Unmarshal([]byte(text), &values))(t)
	validate(t, "values", schema, values)
	return values
}

// validate checks a value against a schema, of which it knows the keywords that the chart's has.
func validate(t *testing.T, path string, schema map[string]any, v any) {
	t.Helper()
	object, _ := v.(map[string]any)
	properties, _ := schema["properties"].(map[string]any)
	for keyword, want := range schema {
		text, isText := v.(string)
		number, isNumber := v.(int)
		limit, _ := want.(float64)
		wrong := false
		switch keyword {
		case "$schema", "title", "description", "required", "items", "if", "then", "else", "allOf", "anyOf", "not", "definitions", "default", "minItems", "format", "$ref":
		case "type":
			names, several := want.([]any)
			if !several {
				names = []any{want}
			}
			kind := map[string]bool{"string": isText, "integer": isNumber, "number": isNumber, "object": object != nil}
			_, kind["boolean"] = v.(bool)
			_, kind["array"] = v.([]any)
			kind["null"] = v == nil
			wrong = !slices.ContainsFunc(names, func(name any) bool { return kind[name.(string)] })
		case "enum":
			wrong = !slices.Contains(want.([]any), v)
		case "pattern":
			wrong = isText && !regexp.MustCompile(want.(string)).MatchString(text)
		case "minLength", "maxLength":
			wrong = isText && (len(text) < int(limit)) == (keyword == "minLength") && len(text) != int(limit)
		case "minimum":
			wrong = isNumber && number < int(limit)
		case "maximum":
			wrong = isNumber && number > int(limit)
		case "propertyNames":
			for key := range object {
				validate(t, path+": "+key, want.(map[string]any), key)
			}
		case "properties":
			for key, inner := range want.(map[string]any) {
				if value, set := object[key]; set {
					validate(t, path+"."+key, inner.(map[string]any), value)
				}
			}
		case "additionalProperties":
			for key, value := range object {
				if _, known := properties[key]; known {
				} else if inner, isSchema := want.(map[string]any); isSchema {
					validate(t, path+"."+key, inner, value)
				} else if want == false {
					t.Errorf("%s has the unknown key %s", path, key)
				}
			}
		default:
			t.Errorf("%s: the schema has the keyword %s", path, keyword)
		}
		if wrong {
			t.Errorf("%s: found %v, and %s is %v", path, v, keyword, want)
		}
	}
}

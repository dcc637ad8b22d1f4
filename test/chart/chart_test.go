// SPDX-License-Identifier: Apache-2.0

// Package chart tests deploy/helm and deploy/kustomize. `make test-chart` builds the programs that the tests
// need, and names them in MAYFLY_HELM, MAYFLY_KUBECONFORM, MAYFLY_KUSTOMIZE and MAYFLY_BINARY.
package chart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	chartDir = "../../deploy/helm/mayfly"
	// aLog are the values of an embedded log in use.
	aLog = "host: ca.example\nembeddedLogs: [{name: '2026', publicKey: \"-----BEGIN PUBLIC KEY-----\\nMFkw\\n-----END PUBLIC KEY-----\\n\"}]\n"
	// everything has each feature that can be combined with the others.
	everything = `
host: ca.example
config:
  trace: {endpoint: "https://otel.example:4317"}
  audit: {claims: [repository], identity: hmac}
  trusted_proxies: [10.0.0.0/8]
  shutdown: {grace: 1m30s, drain: 1500ms}
  listen: {proxy_protocol: [http]}
  tls: {min: "1.2"}
  oidc: {key_refresh: 10m, proxy: "http://proxy.example:3128"}
  ct: {logs: [{url: "https://log.example/2026", public_key: ct/log.pub, token_file: ct/log.token}]}
issuers: {content: "oidc-issuers:\n  https://accounts.google.com:\n    issuer-url: https://accounts.google.com\n    client-id: sigstore\n    type: email\n"}
ca: {files: {ca.yaml: "generation: 1\n"}, keys: {secret: keys}}
ct: {files: {log.pub: "x\n"}, secret: tokens}
signer: {enabled: true, extraArgs: [--log-format=text], extraEnv: [{name: AWS_REGION, value: eu-north-1}], extraVolumeMounts: [{name: x, mountPath: /x}]}
embeddedLogs:
  - name: "2026"
    publicKey: "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    retireAt: "2027-12-01T00:00:00Z"
    tls: {secretName: log-tls, caConfigMap: log-ca}
    url: https://mayfly-log-2026.ca.svc/ctlog/2026
    storage: {size: 5Gi, storageClassName: local}
    config: {batch_age: 20ms}
    resources: {requests: {cpu: 1}}
    nodeSelector: {disk: nvme}
  - {name: 2026b, initialize: true, origin: other.example/2026b, guard: {existingClaim: guard}, updateStrategy: OnDelete}
audit: {enabled: true, hmacSecret: hmac, storage: {size: 1Gi, storageClassName: fast}}
tls: {secretName: tls}
caBundle: {configMap: roots}
kubernetesIssuer: {enabled: true}
autoscaling: {enabled: true, minReplicas: 3, maxReplicas: 9, behavior: {scaleDown: {stabilizationWindowSeconds: 300}}}
podDisruptionBudget: {minAvailable: 2}
ingress: {enabled: true, className: nginx, tlsSecret: ca-tls, annotations: {a: b}, grpc: {annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}}
gateway: {enabled: true, parentRefs: [{name: public, namespace: gateways, sectionName: https}], grpcHost: grpc.ca.example}
networkPolicy:
  clients: [{namespaceSelector: {}}]
  ops: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  logs: [{ipBlock: {cidr: 192.0.2.0/24}}]
  egress: [{ports: [{port: 8200, protocol: TCP}]}]
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
serviceAccount: {annotations: {x: z}}
workloadIdentity: {aws: {roleArn: "arn:aws:iam::111122223333:role/mayfly"}, google: {serviceAccount: m@p.iam.gserviceaccount.com}, azure: {clientId: c, tenantId: t}}
antiAffinity: hard
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: ca, operator: Exists}]
priorityClassName: high
runtimeClassName: gvisor
imagePullSecrets: [{name: registry}]
podLabels: {team: pki}
podAnnotations: {c: d}
podSecurityContext: {supplementalGroups: [1000]}
extraEnv: [{name: MAYFLY_LOG_LEVEL, value: debug}]
extraEnvFrom: [{configMapRef: {name: env}}]
extraVolumes: [{name: x, emptyDir: {}}]
extraVolumeMounts: [{name: x, mountPath: /x}]
extraObjects:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ .Release.Name }}-extra"}}
commonLabels: {cost: pki}
`
)

// matrix are values that render objects which a cluster takes, by name.
var matrix = map[string]string{
	"defaults":            "",
	"one replica":         "replicaCount: 1",
	"no log":              "config: {ct: {disabled: true}}",
	"remote log":          "config: {ct: {logs: [{url: 'https://log.example/2026', public_key: ct/log.pub}]}}\nct: {configMap: keys}",
	"embedded log":        aLog,
	"new log":             strings.Replace(aLog, "publicKey:", "initialize: true, activateAt: '2026-12-01T00:00:00Z', publicKey:", 1),
	"two logs":            "host: ca.example\nembeddedLogs: [{name: a}, {name: b}]",
	"one port":            "ports: {http: 8443, grpc: 8443}\ntls: {secretName: tls}\nservice: {type: LoadBalancer, httpPort: 443, externalTrafficPolicy: Local, loadBalancerClass: x, loadBalancerSourceRanges: [192.0.2.0/24]}",
	"one port, routes":    "host: ca.example\nports: {grpc: 5555}\ningress: {enabled: true}\ngateway: {enabled: true, parentRefs: [{name: public}]}",
	"ingress":             aLog + "ingress: {enabled: true}",
	"gateway":             aLog + "gateway: {enabled: true, parentRefs: [{name: public}]}",
	"audit":               "audit: {enabled: true}",
	"audit, scaled":       "audit: {enabled: true}\nautoscaling: {enabled: true}\nupdateStrategy: {type: OnDelete}",
	"autoscaling":         "autoscaling: {enabled: true, targetCPUUtilizationPercentage: null, metrics: [{type: Pods, pods: {metric: {name: requests}, target: {type: AverageValue, averageValue: 100}}}]}",
	"signer":              "signer: {enabled: true}",
	"signer, csi":         "signer: {enabled: true}\nca: {keys: {from: csi, csi: {driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: {secretProviderClass: mayfly}}}}",
	"csi":                 "ca: {keys: {from: csi, csi: {driver: secrets-store.csi.k8s.io, readOnly: true}}}",
	"kms":                 "ca: {keys: {from: none}}\nworkloadIdentity: {azure: {clientId: c}}",
	"service account":     "serviceAccount: {create: false, name: shared}",
	"no policy":           "networkPolicy: {enabled: false}\nserviceMonitor: {enabled: true}\npodDisruptionBudget: {enabled: false}",
	"own placement":       "affinity: {nodeAffinity: {}}\ntopologySpreadConstraints: []",
	"no placement":        "antiAffinity: none\nterminationGracePeriodSeconds: 90",
	"names":               strings.Replace(aLog, "'2026'", "abcdefghijkl", 1) + "fullnameOverride: " + strings.Repeat("long-", 9) + "name\nissuers: {configMap: a, key: b.yaml}\nca: {configMap: c, keys: {secret: d}}\nimage: {digest: 'sha256:" + strings.Repeat("0", 64) + "'}",
	"percent":             "podDisruptionBudget: {minAvailable: 50%}",
	"everything":          everything,
	"values of migration": "config: {compat: true, public_url: 'https://fulcio.example'}\nreplicaCount: 3",
}

// refused are values that do not render, each with a part of the message that names the place.
var refused = map[string]struct{ values, want string }{
	"negative":             {"replicaCount: -1", "replicaCount"},
	"unknown":              {"replicas: 3", "replicas"},
	"unknown below":        {"image: {name: x}", "name"},
	"unknown of a log":     {"embeddedLogs: [{name: a, size: 1}]", "size"},
	"type":                 {"replicaCount: two", "replicaCount"},
	"port":                 {"ports: {http: 80}", "http"},
	"digest":               {"image: {digest: latest}", "digest"},
	"log over http":        {"host: ca.example\nembeddedLogs: [{name: a, url: 'http://x'}]", "url"},
	"name of a log":        {"host: ca.example\nembeddedLogs: [{name: A_b}]", "name"},
	"long name of a log":   {"host: ca.example\nembeddedLogs: [{name: abcdefghijklm}]", "name"},
	"log without host":     {"embeddedLogs: [{name: a}]", "value host"},
	"log twice":            {"host: ca.example\nembeddedLogs: [{name: a}, {name: a}]", `"a" twice`},
	"key of a log's":       {"host: ca.example\nembeddedLogs: [{name: a, config: {dir: /x}}]", "embeddedLogs[].config.dir"},
	"listen":               {"config: {listen: {http: ':1'}}", "config.listen.http"},
	"issuers":              {"config: {issuers: x}", "config.issuers"},
	"ca":                   {"config: {ca: {set: x}}", "config.ca"},
	"tls":                  {"config: {tls: {key: x}}", "config.tls.key"},
	"audit without volume": {"config: {audit: {claims: [a]}}", "audit.enabled"},
	"hmac without key":     {"audit: {enabled: true}\nconfig: {audit: {identity: hmac}}", "audit.hmacSecret"},
	"secret in config":     {"config: {oidc: {proxy: 'http://u:p@proxy.example:3128'}}", "config.oidc.proxy"},
	"key in a ConfigMap":   {"ca: {files: {k.pem: '-----BEGIN PRIVATE KEY-----'}}", "k.pem"},
	"two issuers":          {"issuers: {content: a, configMap: b}", "issuers.configMap"},
	"csi without volume":   {"ca: {keys: {from: csi}}", "ca.keys.csi"},
	"user of the signer":   {"signer: {enabled: true, uid: 65532}", "signer.uid"},
	"ops for clients":      {"ports: {ops: 5555}", "ports.ops"},
	"port of the service":  {"service: {httpPort: 5554}", "service.grpcPort"},
	"port of the signer":   {"signer: {enabled: true, port: 2112}", "signer.port"},
	"budget":               {"podDisruptionBudget: {minAvailable: 2}", "minAvailable"},
	"budget of one":        {"replicaCount: 1\npodDisruptionBudget: {minAvailable: 1}", "minAvailable"},
	"budget of none":       {"podDisruptionBudget: {maxUnavailable: 0}", "maxUnavailable"},
	"scale":                {"autoscaling: {enabled: true, minReplicas: 9}", "minReplicas"},
	"scale by nothing":     {"autoscaling: {enabled: true, targetCPUUtilizationPercentage: null}", "autoscaling"},
	"ingress without host": {"ingress: {enabled: true}", "value host"},
	"gateway without host": {"gateway: {enabled: true, parentRefs: [{name: a}]}", "value host"},
	"gateway of none":      {"host: ca.example\ngateway: {enabled: true}", "gateway.parentRefs"},
	"one host":             {"host: ca.example\ngateway: {enabled: true, grpcHost: ca.example, parentRefs: [{name: a}]}", "gateway.grpcHost"},
	"monitor":              {"serviceMonitor: {enabled: true}", "networkPolicy.ops"},
	"duration":             {"config: {shutdown: {grace: 10}}", "duration"},
}

func TestChart(t *testing.T) {
	t.Parallel()
	schemas := deriveSchemas(t)
	for name, values := range matrix {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rendered, objects := render(t, values)
			checkObjects(t, objects)
			checkConfigs(t, objects)
			if out, err := kubeconform(t, schemas, rendered); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestRefusedValues(t *testing.T) {
	t.Parallel()
	for name, test := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := helm(t, test.values); err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("%v: %s; a refusal that names %s is expected", err, out, test.want)
			}
		})
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), program(t, "MAYFLY_HELM"), "lint", "--strict", chartDir).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The defaults render these kinds, and no others.
func TestDefaults(t *testing.T) {
	t.Parallel()
	_, objects := render(t, "")
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[o.Kind]++
	}
	want := map[string]int{"Deployment": 1, "Service": 2, "PodDisruptionBudget": 1, "NetworkPolicy": 1, "ConfigMap": 1, "ServiceAccount": 1}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", kinds, want)
	}
}

// The notes lead to a CA and a first certificate. helm prints them only with a cluster, so the test renders them as
// another file.
func TestNotes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mayfly")
	notes, err := os.ReadFile(chartDir + "/templates/NOTES.txt")
	if err == nil {
		err = os.CopyFS(dir, os.DirFS(chartDir))
	}
	if err == nil {
		text := `{{ define "notes" }}` + string(notes) + "{{ end }}\nkind: Notes\ndata: {notes: {{ include \"notes\" . | toJson }}}\n"
		err = os.WriteFile(filepath.Join(dir, "templates", "notes.yaml"), []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for values, wants := range map[string][]string{
		"": {"mayfly ca init ./ca", "create secret generic mayfly-ca-keys", "rm -r flat", "create configmap mayfly-issuers", "NO CERTIFICATE TRANSPARENCY LOG", "mayfly request --url http://127.0.0.1:5555"},
		"host: ca.example\ningress: {enabled: true}\nembeddedLogs: [{name: a, initialize: true}, {name: b}]": {
			"job/mayfly-log-a-init", "Log b HAS NO publicKey", "mayfly-log-submit", "config.trusted_proxies IS EMPTY", "--url https://ca.example"},
		"ca: {keys: {from: none}}\naudit: {enabled: true}": {"signer.kms", "statefulset/mayfly"},
	} {
		found := ""
		out, err := helmTemplate(t, dir, values)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, o := range parse(t, out) {
			found += o.Data["notes"]
		}
		for _, want := range wants {
			if !strings.Contains(found, want) {
				t.Errorf("%q: the notes lack %q:\n%s", values, want, found)
			}
		}
	}
}

// Only a change of mayfly.yaml restarts Pods.
func TestRestarts(t *testing.T) {
	t.Parallel()
	template := func(values string) string {
		_, objects := render(t, values)
		for _, o := range objects {
			if o.Kind == "Deployment" {
				text, err := yaml.Marshal(o.Spec["template"])
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
		}
		t.Fatal("there is no Deployment")
		return ""
	}
	before := template("issuers: {content: a}\nca: {files: {ca.yaml: a}}")
	if after := template("issuers: {content: b}\nca: {files: {ca.yaml: b, new.pem: c}}"); after != before {
		t.Errorf("other issuers and another CA set changed the Pod:\n%s", after)
	}
	if after := template("issuers: {content: a}\nca: {files: {ca.yaml: a}}\nconfig: {compat: true}"); after == before {
		t.Error("another mayfly.yaml did not change the Pod")
	}
}

// The policy permits the ports of the collector of traces and of the proxy, also where a path follows.
func TestEgress(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://otel.example": "[443]", "https://otel.example:4317": "[443 4317]", "https://otel.example:4318/v1": "[443 4318]", "https://[2001:db8::1]": "[443]",
	} {
		_, objects := render(t, fmt.Sprintf("config: {trace: {endpoint: %q}}", url))
		for _, o := range objects {
			if o.Kind != "NetworkPolicy" {
				continue
			}
			rules := convert[[]struct{ Ports []struct{ Port int } }](t, o.Spec["egress"])
			found := []int{}
			for _, p := range rules[len(rules)-1].Ports {
				found = append(found, p.Port)
			}
			if fmt.Sprint(found) != want {
				t.Errorf("%s: found %v, want %s", url, found, want)
			}
		}
	}
}

// helm renders the chart with values as release mayfly in namespace ca. The output of a failure is its message.
func helm(t *testing.T, values string) ([]byte, error) {
	t.Helper()
	return helmTemplate(t, chartDir, values)
}

func helmTemplate(t *testing.T, dir, values string) ([]byte, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program(t, "MAYFLY_HELM"), "template", "mayfly", dir, "--namespace=ca", "--values=-")
	c.Stdin = strings.NewReader(values)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return stderr.Bytes(), err
	}
	return out, nil
}

func render(t *testing.T, values string) ([]byte, []object) {
	t.Helper()
	out, err := helm(t, values)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out, parse(t, out)
}

// object is a manifest.
type object struct {
	Kind     string
	Metadata struct {
		Name                string
		Labels, Annotations map[string]string
	}
	Spec map[string]any
	Data map[string]string
}

func parse(t *testing.T, text []byte) (objects []object) {
	t.Helper()
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if o.Kind != "" {
			objects = append(objects, o)
		}
	}
}

// checkConfigs loads each mayfly.yaml as `mayfly config check --no-files` does.
func checkConfigs(t *testing.T, objects []object) {
	t.Helper()
	found := 0
	for _, o := range objects {
		config, ok := o.Data["mayfly.yaml"]
		if o.Kind != "ConfigMap" || !ok {
			continue
		}
		found++
		dir := t.TempDir()
		issuers, err := os.ReadFile("../../deploy/examples/two-replicas/issuers.yaml")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "mayfly.yaml")
		if err := errors.Join(os.WriteFile(file, []byte(config), 0o600), os.WriteFile(filepath.Join(dir, "issuers.yaml"), issuers, 0o600)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), program(t, "MAYFLY_BINARY"), "config", "check", "--no-files", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", o.Metadata.Name, err, out, config)
		}
	}
	if found == 0 {
		t.Error("no ConfigMap has a mayfly.yaml")
	}
}

// program returns the path of a program that a variable names. Without the variable, the test is skipped.
func program(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Skipf("%s names no program; make test-chart builds it", variable)
	}
	path, err := testworld.Executable(variable, value)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// readChart reads the values of Fulcio's chart.
func (p *plan) readChart(name string) {
	p.values["port"], p.values["grpc-port"] = value{text: "5555"}, value{text: "5554"} // the defaults of the chart
	known := slices.Concat(slices.Sorted(maps.Keys(p.ChartSettings)), slices.Sorted(maps.Keys(p.ChartValues)))
	withoutLog := false
	p.eachKey(name, func(path string, at config.Mistake, item *yaml.Node) bool {
		setting, full, below := p.ChartSettings[path], path, path+"."
		if !strings.HasPrefix(below, "server.") && !strings.HasPrefix(below, "config.") {
			full, below = "server."+path, "server."+below
		}
		target := p.ChartValues[full]
		switch {
		case slices.Contains(p.Ignore, path):
			target = "not migrated, as --ignore states"
		case path == "server.args.disable_ct_log":
			withoutLog = p.isTrue(path, at, item)
		case path == "server.args.kms_cert_chain" && strings.Contains(item.Value, "-----BEGIN"):
			p.Chain = []byte(item.Value)
			p.set(setting, filepath.Join(p.Out, "chain.pem"), at)
		case setting != "":
			if item.Value != "" || setting == "ct-log-url" { // the chart has empty values for settings that are not in use
				p.set(setting, item.Value, at)
			}
		case path == "config.contents":
			p.identityFile = name + ": config.contents"
			p.Identities = identities(item)
		case target != "":
			p.helm[strings.TrimPrefix(full, "server.")] = p.chartValue(full, path, at, item)
		case item.Kind == yaml.MappingNode && slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, below) }):
			return false
		default:
			p.wrong(at, "the value %s is not known%s; --ignore %[1]s leaves it out", path, suggest.DidYouMean(path, known))
		}
		if target != "" {
			p.chartRows = append(p.chartRows, Row{path, "", target})
		}
		return true
	})
	if withoutLog {
		p.values["ct-log-url"] = value{}
	}
	p.readIngress(name)
}

// isTrue returns a boolean value of the chart. Helm takes any text for true, even "false".
func (p *plan) isTrue(path string, at config.Mistake, item *yaml.Node) (v bool) {
	if item.Decode(&v) != nil {
		p.wrong(at, "%s: found %q, expected true or false without quotes", path, item.Value)
	}
	return v
}

// chartValue returns a value of the chart, of the type that mayfly's chart has.
func (p *plan) chartValue(full, path string, at config.Mistake, item *yaml.Node) any {
	switch full {
	case "server.replicaCount", "server.svcPort", "server.grpcSvcPort":
		if !p.Forms["number"].matches(item.Value) {
			p.wrong(at, "%s: found %q, expected %s", path, item.Value, p.Forms["number"].Expected)
		}
		return item.Value
	case "server.serviceAccount.create", "server.ingress.http.enabled", "server.ingress.grpc.enabled":
		return p.isTrue(path, at, item)
	}
	var v any
	if err := item.Decode(&v); err != nil {
		p.wrong(at, "%v", err)
	}
	return v
}

// readIngress decides what the ingresses of Fulcio's chart have in common: mayfly's chart has one host for both.
func (p *plan) readIngress(name string) {
	var hosts []string
	for _, ingress := range []string{"ingress.http", "ingress.grpc"} {
		if p.helm[ingress+".enabled"] == false {
			continue
		}
		class, _ := p.helm[ingress+".className"].(string)
		p.IngressClass = cmp.Or(p.IngressClass, class)
		for _, secret := range p.members(ingress+".tls", "secretName") {
			p.TLSSecret = cmp.Or(p.TLSSecret, secret)
		}
		hosts = append(hosts, p.members(ingress+".hosts", "host")...)
	}
	hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	if len(hosts) > 1 {
		p.wrong(config.Mistake{File: name + ": server.ingress"}, "found the hosts %s, and mayfly's chart has one host for REST and gRPC: write one name in both, "+
			"or leave one out with --ignore server.ingress.grpc.hosts, and let its clients use the other", strings.Join(hosts, ", "))
	}
	p.Host = strings.Join(hosts, "")
}

// Helm returns a value of Fulcio's chart, by its path below server.
func (p *plan) Helm(path string) any { return p.helm[path] }

// members returns a member of each item of a list among the values of Fulcio's chart.
func (p *plan) members(path, name string) (texts []string) {
	list, _ := p.helm[path].([]any)
	for _, item := range list {
		object, _ := item.(map[string]any)
		if text, _ := object[name].(string); text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

// identities returns the identity file in the values of a chart: text as it is, a mapping as YAML, or as JSON if its
// keys are those of JSON.
func identities(item *yaml.Node) (out []byte) {
	var v map[string]any
	if item.Kind == yaml.ScalarNode {
		return []byte(item.Value)
	} else if item.Decode(&v) == nil && (v["OIDCIssuers"] != nil || v["MetaIssuers"] != nil) {
		out, _ = json.MarshalIndent(v, "", "  ")
	} else {
		out, _ = yaml.Marshal(item) // nil after an error, which the check of the result reports
	}
	return out
}

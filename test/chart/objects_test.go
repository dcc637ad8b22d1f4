// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// pod is the part of a Pod that objects refer to each other by.
type pod struct {
	owner    string
	replicas any
	claims   []string // of volumeClaimTemplates
	Metadata struct{ Labels map[string]string }
	Spec     struct {
		ServiceAccountName            string         `yaml:"serviceAccountName"`
		AutomountServiceAccountToken  *bool          `yaml:"automountServiceAccountToken"`
		TerminationGracePeriodSeconds int            `yaml:"terminationGracePeriodSeconds"`
		SecurityContext               map[string]any `yaml:"securityContext"`
		Containers                    []container
		InitContainers                []container `yaml:"initContainers"`
		Volumes                       []map[string]any
	}
}

type container struct {
	Name            string
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
		RunAsUser                int   `yaml:"runAsUser"`
		Capabilities             struct{ Add, Drop []string }
		SeccompProfile           struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Resources struct{ Limits map[string]string }
}

// convert reads a part of a manifest into a type.
func convert[T any](t *testing.T, value any) (result T) {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err == nil {
		err = yaml.Unmarshal(text, &result)
	}
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func pods(t *testing.T, objects []object) (pods []pod) {
	t.Helper()
	for _, o := range objects {
		template, ok := o.Spec["template"]
		if !ok {
			continue
		}
		p := convert[pod](t, template)
		p.owner, p.replicas = o.Kind+" "+o.Metadata.Name, o.Spec["replicas"]
		for _, claim := range convert[[]object](t, o.Spec["volumeClaimTemplates"]) {
			p.claims = append(p.claims, claim.Metadata.Name)
		}
		pods = append(pods, p)
		if s, ok := o.Spec["selector"]; ok && !matches(convert[selector](t, s).MatchLabels, p.Metadata.Labels) {
			t.Errorf("the selector of %s does not match its Pods", p.owner)
		}
	}
	return pods
}

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// checkObjects checks what the objects state about each other, and what no object may have.
func checkObjects(t *testing.T, objects []object) {
	t.Helper()
	all := pods(t, objects)
	if len(all) == 0 {
		t.Error("there are no Pods")
	}
	names := map[string]bool{}
	for _, o := range objects {
		id := o.Kind + " " + o.Metadata.Name
		if names[id] {
			t.Errorf("%s is there twice", id)
		}
		names[id] = true
		if limit := map[string]int{"StatefulSet": 52, "PersistentVolumeClaim": 253}[o.Kind]; len(o.Metadata.Name) > cmp.Or(limit, 63) {
			t.Errorf("the name of %s is too long", id)
		}
		if o.Kind == "Secret" {
			t.Errorf("%s: the chart must create no Secret", id)
		}
		for key, text := range o.Data {
			if strings.Contains(text, "PRIVATE KEY") {
				t.Errorf("%s has a private key in %s", id, key)
			}
		}
	}
	for _, p := range all {
		p.check(t, names)
	}
	for _, o := range objects {
		o.check(t, objects, all, names)
	}
}

// check checks one Pod.
func (p pod) check(t *testing.T, names map[string]bool) {
	t.Helper()
	if p.Spec.AutomountServiceAccountToken == nil || *p.Spec.AutomountServiceAccountToken {
		t.Errorf("%s mounts a token of its ServiceAccount", p.owner)
	}
	if s := p.Spec.SecurityContext; s["runAsNonRoot"] != true || s["runAsUser"] != 65532 || s["fsGroup"] != 65532 {
		t.Errorf("%s is not restricted: %v", p.owner, s)
	}
	used := map[string]bool{}
	users := map[int]bool{}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		s := c.SecurityContext
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !s.RunAsNonRoot ||
			s.SeccompProfile.Type != "RuntimeDefault" || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("%s: container %s is not restricted: %+v", p.owner, c.Name, s)
		}
		if c.Resources.Limits["memory"] == "" && c.Name != "mayfly" {
			t.Errorf("%s: container %s has no limit of memory", p.owner, c.Name)
		}
		if users[s.RunAsUser] {
			t.Errorf("%s: two containers have the user %d", p.owner, s.RunAsUser)
		}
		users[s.RunAsUser] = true
		paths := map[string]bool{}
		for _, m := range c.VolumeMounts {
			if paths[m.MountPath] {
				t.Errorf("%s: container %s mounts %s twice", p.owner, c.Name, m.MountPath)
			}
			paths[m.MountPath], used[m.Name] = true, true
			if strings.HasPrefix(m.MountPath, "/etc/") && !m.ReadOnly {
				t.Errorf("%s: container %s may write to %s", p.owner, c.Name, m.MountPath)
			}
		}
	}
	p.checkVolumes(t, used, names)
	if len(p.Spec.InitContainers) > 0 { // the signing process: only it has the keys
		for _, m := range p.Spec.Containers[0].VolumeMounts {
			if m.Name == "ca-signer" || m.Name == "ca-keys" || m.Name == "tmp-signer" {
				t.Errorf("%s: the server has the signer's volume %s", p.owner, m.Name)
			}
			if m.Name == "signer-socket" && !m.ReadOnly {
				t.Errorf("%s: the server may replace the signer's socket", p.owner)
			}
			if m.Name == "ca" && strings.Contains(fmt.Sprint(p.volume("ca")), "secret:") {
				t.Errorf("%s: the server's CA set has the keys", p.owner)
			}
		}
	}
}

func (p pod) volume(name string) map[string]any {
	for _, v := range p.Spec.Volumes {
		if v["name"] == name {
			return v
		}
	}
	return nil
}

// checkVolumes requires that each mounted volume exists and each volume is mounted, and that each object that a
// volume names is rendered, or is one that the operator creates.
func (p pod) checkVolumes(t *testing.T, used, names map[string]bool) {
	t.Helper()
	for name := range used {
		if p.volume(name) == nil && !slices.Contains(p.claims, name) {
			t.Errorf("%s mounts %s, which is no volume", p.owner, name)
		}
	}
	for _, v := range p.Spec.Volumes {
		name := v["name"].(string)
		if !used[name] {
			t.Errorf("%s has the volume %s, which no container mounts", p.owner, name)
		}
		sources := []any{v}
		if projected, ok := v["projected"].(map[string]any); ok {
			sources = projected["sources"].([]any)
		}
		for _, s := range sources {
			source := s.(map[string]any)
			for kind, key := range map[string]string{"configMap": "name", "persistentVolumeClaim": "claimName"} {
				reference, ok := source[kind].(map[string]any)
				if !ok {
					continue
				}
				object := reference[key].(string)
				operators := []string{"kube-root-ca.crt", "mayfly-issuers", "mayfly-ca", "mayfly-ct", "keys", "roots", "log-ca", "guard", "a", "c"}
				if !names[strings.ToUpper(kind[:1])+kind[1:]+" "+object] && !slices.Contains(operators, object) && !strings.HasPrefix(object, "long-") {
					t.Errorf("%s mounts %s %s, which does not exist", p.owner, kind, object)
				}
			}
		}
	}
}

// check checks that the objects exist to which an object refers.
func (o object) check(t *testing.T, objects []object, all []pod, names map[string]bool) {
	t.Helper()
	id := o.Kind + " " + o.Metadata.Name
	chosen := func(labels map[string]string) (found []pod) {
		for _, p := range all {
			if matches(labels, p.Metadata.Labels) {
				found = append(found, p)
			}
		}
		if len(found) == 0 {
			t.Errorf("%s selects no Pod: %v", id, labels)
		}
		return found
	}
	switch o.Kind {
	case "Service":
		labels, ports := convert[map[string]string](t, o.Spec["selector"]), convert[[]servicePort](t, o.Spec["ports"])
		for _, p := range chosen(labels) {
			for _, port := range ports {
				if !slices.Contains(p.ports(), port.TargetPort) {
					t.Errorf("%s has the port %s, which %s does not have: %v", id, port.TargetPort, p.owner, p.ports())
				}
			}
		}
	case "StatefulSet":
		if o.Spec["podManagementPolicy"] != "Parallel" {
			t.Errorf("%s: a Pod that cannot start would stop a rollback", id)
		}
	case "NetworkPolicy":
		chosen(convert[selector](t, o.Spec["podSelector"]).MatchLabels)
	case "PodDisruptionBudget":
		chosen(convert[selector](t, o.Spec["selector"]).MatchLabels)
		if o.Spec["maxUnavailable"] == 0 {
			t.Errorf("%s blocks each drain", id)
		}
	case "HorizontalPodAutoscaler":
		target := convert[struct{ Kind, Name string }](t, o.Spec["scaleTargetRef"])
		if !names[target.Kind+" "+target.Name] {
			t.Errorf("%s scales %v, which does not exist", id, target)
		}
		for _, p := range all {
			if p.owner == target.Kind+" "+target.Name && p.replicas != nil {
				t.Errorf("%s and %s both state the replicas", id, p.owner)
			}
		}
	case "ServiceMonitor":
		if !slices.ContainsFunc(objects, func(s object) bool {
			return s.Kind == "Service" && matches(convert[selector](t, o.Spec["selector"]).MatchLabels, s.Metadata.Labels)
		}) {
			t.Errorf("%s selects no Service", id)
		}
	case "Ingress", "HTTPRoute", "GRPCRoute":
		checkBackends(t, id, o.Spec, objects)
	}
}

type servicePort struct {
	Name       string
	Port       int
	TargetPort string `yaml:"targetPort"`
}

func (p pod) ports() (names []string) {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, port := range c.Ports {
			names = append(names, port.Name)
		}
	}
	return names
}

// checkBackends requires that each Service and port exists to which an Ingress or a route leads.
func checkBackends(t *testing.T, id string, spec map[string]any, objects []object) {
	t.Helper()
	var backends []string // Service and port
	for _, rule := range convert[[]struct {
		BackendRefs []struct {
			Name string
			Port int
		} `yaml:"backendRefs"`
		HTTP struct {
			Paths []struct {
				Backend struct {
					Service struct {
						Name string
						Port struct{ Name string }
					}
				}
			}
		}
	}](t, spec["rules"]) {
		for _, b := range rule.BackendRefs {
			backends = append(backends, fmt.Sprint(b.Name, " ", b.Port))
		}
		for _, p := range rule.HTTP.Paths {
			backends = append(backends, p.Backend.Service.Name+" "+p.Backend.Service.Port.Name)
		}
	}
	var known []string
	for _, o := range objects {
		for _, port := range convert[[]servicePort](t, o.Spec["ports"]) {
			known = append(known, o.Metadata.Name+" "+port.Name, fmt.Sprint(o.Metadata.Name, " ", port.Port))
		}
	}
	if len(backends) == 0 {
		t.Errorf("%s leads nowhere", id)
	}
	for _, b := range backends {
		if !slices.Contains(known, b) {
			t.Errorf("%s leads to %s, which does not exist: %v", id, b, known)
		}
	}
}

// The grace period is longer than the steps of the shutdown.
func TestGracePeriod(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]int{
		"":                         10 + 15 + 15,
		everything:                 90 + 2 + 15,
		"config: {shutdown: null}": 20 + 15,
		"config: {shutdown: {grace: 1h2m3.5s, drain: 1m}}": 3600 + 120 + 4 + 60 + 15,
		"terminationGracePeriodSeconds: 7":                 7,
	} {
		_, objects := render(t, values)
		for _, p := range pods(t, objects) {
			if got := p.Spec.TerminationGracePeriodSeconds; got != want && !strings.HasPrefix(p.owner, "Job") {
				t.Errorf("%.40q: %s has %d seconds, want %d", values, p.owner, got, want)
			}
		}
	}
}

// The chart has copies of the alerts and of the dashboard, since a chart contains no files from outside.
func TestCopies(t *testing.T) {
	t.Parallel()
	for _, original := range []string{"prometheus/alerts.yaml", "grafana/mayfly.json"} {
		want, err := os.ReadFile("../../deploy/" + original)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(chartDir + "/files/" + path.Base(original))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the chart's copy of deploy/%s differs (%v); copy it to deploy/helm/mayfly/files, as make manifests does", original, err)
		}
	}
}

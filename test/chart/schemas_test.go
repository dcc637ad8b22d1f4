// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// sources are the modules that define the kinds, pinned by their checksums. They are too large to be here.
var sources = map[string]struct{ sum, files string }{
	"k8s.io/kubernetes@v1.37.2":                                  {"h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=", "api/openapi-spec/swagger.json"},
	"sigs.k8s.io/gateway-api@v1.5.1":                             {"h1:RqVRIlkhLhUO8wOHKTLnTJA6o/1un4po4/6M1nRzdd0=", "config/crd/standard/*routes.yaml"},
	"github.com/prometheus-operator/prometheus-operator@v0.85.0": {"h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=", "example/prometheus-operator-crd/*.yaml"},
}

// groups are those of Kubernetes' own kinds that the chart may render.
var groups = []any{"", "apps", "autoscaling", "batch", "networking.k8s.io", "policy"}

type schema = map[string]any

// deriveSchemas writes a strict JSON schema for each kind of the sources, and returns their directory.
func deriveSchemas(t *testing.T) string {
	t.Helper()
	program(t, "MAYFLY_KUBECONFORM")
	dir := t.TempDir()
	for module, source := range sources {
		files, err := filepath.Glob(filepath.Join(download(t, module, source.sum), source.files))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no %s: %v", module, source.files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, ".json") {
				deriveOpenAPI(t, dir, text)
			} else {
				deriveCRDs(t, dir, text)
			}
		}
	}
	return dir
}

// download returns the folder of a module with the checksum.
func download(t *testing.T, module, sum string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	c.Dir = t.TempDir() // outside of mayfly's module, whose go.sum it would change
	out, err := c.Output()
	var found struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &found); err != nil || jsonErr != nil || found.Sum != sum {
		t.Fatalf("%s: %v, %v, %s; found the checksum %q, want %q", module, err, jsonErr, found.Error, found.Sum, sum)
	}
	return found.Dir
}

// deriveOpenAPI writes the schemas of Kubernetes' own kinds.
func deriveOpenAPI(t *testing.T, dir string, text []byte) {
	t.Helper()
	var document struct{ Definitions map[string]schema }
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for name, definition := range document.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 || strings.HasSuffix(name, "List") || !slices.Contains(groups, kinds[0].(schema)["group"]) {
			continue // lists, options of requests, and definitions of schemas, which contain themselves
		}
		kind := kinds[0].(schema)
		write(t, dir, kind["group"].(string), kind["version"].(string), kind["kind"].(string), strict(definition, document.Definitions))
	}
}

// deriveCRDs writes the schemas of the versions of custom kinds.
func deriveCRDs(t *testing.T, dir string, text []byte) {
	t.Helper()
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct {
						OpenAPIV3Schema schema `yaml:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := d.Decode(&crd); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		for _, version := range crd.Spec.Versions {
			write(t, dir, crd.Spec.Group, version.Name, crd.Spec.Names.Kind, strict(version.Schema.OpenAPIV3Schema, nil))
		}
	}
}

func write(t *testing.T, dir, group, version, kind string, s any) {
	t.Helper()
	text, err := json.Marshal(s)
	if group == "" {
		group = version // as kubeconform names the group of core
	}
	name := fmt.Sprintf("%s_%s_%s.json", strings.ToLower(kind), group, version)
	if err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, fs.FileMode(0o600))); err != nil {
		t.Fatal(err)
	}
}

// strict returns a copy of a schema without references, which permits no unknown property.
func strict(value any, definitions map[string]schema) any {
	switch value := value.(type) {
	case []any:
		list := make([]any, len(value))
		for i, v := range value {
			list[i] = strict(v, definitions)
		}
		return list
	case schema:
		if reference, ok := value["$ref"].(string); ok {
			name := strings.TrimPrefix(reference, "#/definitions/")
			if strings.HasSuffix(name, "resource.Quantity") {
				return schema{"type": []any{"string", "number"}}
			}
			return strict(definitions[name], definitions)
		}
		if value["format"] == "int-or-string" || value["x-kubernetes-int-or-string"] == true {
			return schema{"type": []any{"string", "integer"}}
		}
		result := schema{}
		for key, v := range maps.All(value) {
			if key == "properties" { // its keys are names, not keywords
				properties := schema{}
				for name, property := range v.(schema) {
					properties[name] = strict(property, definitions)
				}
				result[key] = properties
			} else if key != "description" && key != "format" && !strings.HasPrefix(key, "x-kubernetes-") {
				result[key] = strict(v, definitions)
			}
		}
		_, closed := value["additionalProperties"]
		if _, ok := value["properties"]; ok && !closed && value["x-kubernetes-preserve-unknown-fields"] != true {
			result["additionalProperties"] = false
		}
		return result
	default:
		return value
	}
}

// kubeconform validates manifests; a kind without a schema is an error.
func kubeconform(t *testing.T, schemas string, manifests []byte) ([]byte, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program(t, "MAYFLY_KUBECONFORM"), "-strict", "-summary",
		"-schema-location", schemas+"/{{.ResourceKind}}_{{.Group}}_{{.ResourceAPIVersion}}.json")
	c.Stdin = bytes.NewReader(manifests)
	return c.CombinedOutput()
}

// The check of objects finds what a cluster would refuse.
func TestWrongObjects(t *testing.T) {
	t.Parallel()
	schemas := deriveSchemas(t)
	rendered, _ := render(t, everything)
	for name, change := range map[string][2]string{
		"unknown kind":     {"kind: PodDisruptionBudget", "kind: PodDisruptionBudge"},
		"unknown version":  {"apiVersion: autoscaling/v2\n", "apiVersion: autoscaling/v3\n"},
		"unknown key":      {"serviceAccountName:", "serviceAccontName:"},
		"wrong type":       {"terminationGracePeriodSeconds: ", "terminationGracePeriodSeconds: a"},
		"unknown in route": {"backendRefs:", "backends:"},
		"wrong in monitor": {"endpoints:", "endpoint:"},
		"duplicate key":    {"fsGroup: 65532", "fsGroup: 65532\n        fsGroup: 65531"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong := bytes.Replace(rendered, []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(wrong, rendered) {
				t.Fatalf("nothing has %q", change[0])
			}
			if out, err := kubeconform(t, schemas, wrong); err == nil {
				t.Errorf("it was not noticed:\n%s", out)
			}
		})
	}
}

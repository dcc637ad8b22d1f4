// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is what compose.yaml declares.
type composeFile struct {
	Services map[string]composeService
	Secrets  map[string]struct{ File string }
}

type composeService struct {
	Image, User string
	Command     []string
	Volumes     []string
	Ports       []string
	Secrets     []string
	Environment map[string]string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	CapAdd      []string `yaml:"cap_add"`
	SecurityOpt []string `yaml:"security_opt"`
	Privileged  bool
	NetworkMode string `yaml:"network_mode"`
	Networks    []string
	Healthcheck struct{ Test []string }
	Restart     string
	Tmpfs       []string
	StopGrace   string `yaml:"stop_grace_period"`
	MemLimit    string `yaml:"mem_limit"`
	PidsLimit   int    `yaml:"pids_limit"`
	Ulimits     map[string]int
	Logging     any
}

const composeDir = "../../deploy/compose"

func readCompose(t *testing.T) (c composeFile) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(composeDir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// Each service is confined, reachable from this machine alone, and has its secrets in files.
func TestComposeIsConfined(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	if len(c.Services) != 6 {
		t.Fatalf("found %d services", len(c.Services))
	}
	for name, s := range c.Services {
		if !strings.HasPrefix(s.User, "${OWNER:?") || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 ||
			!slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged || s.NetworkMode != "" {
			t.Errorf("%s is not confined: %+v", name, s)
		}
		if !strings.Contains(s.Image, ":") || !strings.Contains(s.Image, "/") {
			t.Errorf("%s: the image %s has no version or no registry", name, s.Image)
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s publishes %s", name, port)
			}
		}
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if source != "./state/"+name && !strings.HasSuffix(volume, ":ro") {
				t.Errorf("%s can write to %s", name, volume)
			}
			if _, err := os.Stat(filepath.Join(composeDir, source)); err != nil && !strings.HasPrefix(source, "./state/") && !strings.HasPrefix(source, "./config/") {
				t.Errorf("%s: %v", name, err)
			}
		}
		for key := range s.Environment {
			if regexp.MustCompile("PASS|SECRET|TOKEN|KEY").MatchString(key) && !strings.HasSuffix(key, "__FILE") {
				t.Errorf("%s has a secret in the environment: %s", name, key)
			}
		}
		for _, secret := range s.Secrets {
			if !strings.HasPrefix(c.Secrets[secret].File, "./secrets/") {
				t.Errorf("%s: secret %s is not a file of setup.sh", name, secret)
			}
		}
	}
	if slices.ContainsFunc(c.Services["mayfly"].Ports, func(p string) bool { return strings.Contains(p, "2112") }) {
		t.Error("the ops listener is published")
	}
}

// composeRun is the installation of setup.sh in a folder, with its services on loopback.
type composeRun struct {
	dir  string
	file composeFile
	env  map[string]string
}

// start runs the command of a service, as compose.yaml has it, with the paths of this machine.
func (r *composeRun) start(t *testing.T, service, program string) *process {
	t.Helper()
	s := r.file.Services[service]
	var paths []string // in pairs, for a Replacer
	for _, volume := range s.Volumes {
		parts := strings.Split(volume, ":")
		paths = append(paths, parts[1], filepath.Join(r.dir, parts[0]))
	}
	for _, secret := range s.Secrets {
		paths = append(paths, "/run/secrets/"+secret, filepath.Join(r.dir, r.file.Secrets[secret].File))
	}
	variable := regexp.MustCompile(`\$\{(\w+):-([^}]*)\}`)
	var args []string
	for _, arg := range s.Command[slices.Index(s.Command, "serve"):] { // after the program's name, if the image has no entrypoint
		arg = variable.ReplaceAllStringFunc(arg, func(found string) string {
			parts := variable.FindStringSubmatch(found)
			if value, ok := r.env[parts[1]]; ok {
				return value
			}
			return parts[2]
		})
		args = append(args, strings.NewReplacer(paths...).Replace(arg))
	}
	return start(t, service, serverEnv(t.TempDir()), program, args...)
}

// TestCompose runs setup.sh of deploy/compose, then mayfly, Rekor and the timestamp authority with the
// commands of compose.yaml, outside of containers. An unmodified cosign signs with them, and verifies with
// the documents that mayfly serves. The provider is the suite's and not Dex. It does not run beside other tests: each
// timestamp-server listens on port 2112 for its metrics, which no flag changes.
func TestCompose(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("setup.sh needs openssl")
	}
	w := &world{tools: findTools(t), email: newIssuer(t)}
	r := &composeRun{dir: filepath.Join(t.TempDir(), "compose"), file: readCompose(t)}
	if err := os.CopyFS(r.dir, os.DirFS(composeDir)); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 6)
	for i, url := range []*string{&w.mayfly, &w.rekor, &w.tsa} {
		*url = "http://" + loopback(ports[i])
	}
	r.env = map[string]string{
		"MAYFLY_URL": w.mayfly, "REKOR_URL": w.rekor, "TSA_URL": w.tsa, "DEX_URL": w.email.url, "EMAIL": alice,
		"MAYFLY": w.tools.mayfly, "CONFIG": filepath.Join(r.dir, "config/mayfly"), "STATE": filepath.Join(r.dir, "state/mayfly"),
		"BCRYPT": "echo x:$2y$10$hash", "LISTEN": "127.0.0.1", "HTTP_PORT": strconv.Itoa(ports[0]), "OPS_PORT": strconv.Itoa(ports[3]),
		"REKOR_HOST": "127.0.0.1", "REKOR_PORT": strconv.Itoa(ports[1]), "REKOR_GRPC_PORT": strconv.Itoa(ports[4]), "REKOR_METRICS_PORT": strconv.Itoa(ports[5]),
		"TSA_PORT": strconv.Itoa(ports[2]),
	}
	r.setup(t)
	r.setupAgain(t)
	rekor, tsa := r.start(t, "rekor", w.tools.rekorServer), r.start(t, "tsa", w.tools.timestampServer)
	mayfly := r.start(t, "mayfly", w.tools.mayfly)
	mayfly.awaitReady(t, http.DefaultClient, w.mayfly+"/readyz")
	rekor.awaitReady(t, http.DefaultClient, w.rekor+"/healthz")
	tsa.awaitReady(t, http.DefaultClient, w.tsa+"/ping")

	s := newSandbox(t)
	trusted := s.write(t, "trusted_root.json", fetch(t, http.DefaultClient, w.mayfly+"/trusted_root.json"))
	signing := s.write(t, "signing_config.json", fetch(t, http.DefaultClient, w.mayfly+"/signing_config.v0.2.json"))
	path, bundle := s.write(t, "blob", blob), s.write(t, "blob.sigstore.json", nil)
	s.mustRun(t, w.tools.cosign3, "sign-blob", "--yes", "--identity-token", w.aliceToken(t), "--bundle", bundle,
		"--trusted-root", trusted, "--signing-config", signing, path)
	verify := []string{"verify-blob", "--trusted-root", trusted, "--bundle", bundle, "--certificate-oidc-issuer", w.email.url, "--certificate-identity"}
	s.mustRun(t, w.tools.cosign3, append(verify, alice, path)...)
	s.mustFail(t, "no matching CertificateIdentity found", w.tools.cosign3, append(verify, "mallory@example.org", path)...)
	r.checkBundle(t, bundle)
}

// setup.sh runs mayfly in its container by default. The folder that it writes to has an absolute path, and is mounted
// where compose.yaml mounts nothing: of two mounts of one path, Docker's compose takes the first, here a read-only one.
func TestComposeSetupInContainers(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("setup.sh needs openssl")
	}
	r := &composeRun{dir: filepath.Join(t.TempDir(), "with space"), env: map[string]string{"PATH": t.TempDir() + ":" + os.Getenv("PATH")}}
	docker := `#!/bin/bash
set -eu
if [ "$1" = run ]; then cat > /dev/null; echo 'x:$2y$10$hash'; exit; fi
while [ "$1" != --volume ] && [ "$1" != -v ]; do shift; done
host=${2%:*} target=${2##*:}
[ -d "$host" ] && [ "${host:0:1}" = / ] || { echo "$host is no absolute path of a folder"; exit 1; }
! grep -- ":$target:ro" compose.yaml || { echo "$target is read-only"; exit 1; }
case "$*" in
*" mayfly ca init $target/ca") mkdir -p "$host/ca/root" ;;
*" mayfly ctlog init --config $target/mayfly.yaml") cat "$host/mayfly.yaml" ;;
*) exit 1 ;;
esac
`
	bin, _, _ := strings.Cut(r.env["PATH"], ":")
	if err := errors.Join(os.CopyFS(r.dir, os.DirFS(composeDir)), os.WriteFile(filepath.Join(bin, "docker"), []byte(docker), 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := r.runSetup(t); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// setup runs setup.sh, and permits the loopback address of the suite's provider.
func (r *composeRun) setup(t *testing.T) {
	t.Helper()
	if out, err := r.runSetup(t); err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
	name := filepath.Join(r.dir, "config/mayfly/mayfly.yaml")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(content), "oidc: {insecure_hosts: [127.0.0.1]}", "oidc: {allow_loopback: true}", 1)
	if changed == string(content) {
		t.Fatalf("setup.sh has not permitted the provider's host:\n%s", content)
	}
	if err := os.WriteFile(name, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"secrets", "config", "state"} {
		err := filepath.WalkDir(filepath.Join(r.dir, folder), func(path string, entry os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if info, err := entry.Info(); err != nil || info.Mode().Perm()&0o077 != 0 && folder == "secrets" {
				return errors.Join(err, fmt.Errorf("%s has mode %v", path, info.Mode()))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// setupAgain requires that a second setup.sh changes nothing.
func (r *composeRun) setupAgain(t *testing.T) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(r.dir, "secrets/rekor.key"))
	if err != nil {
		t.Fatal(err)
	}
	_, errSetup := r.runSetup(t)
	after, err := os.ReadFile(filepath.Join(r.dir, "secrets/rekor.key"))
	if errSetup == nil || err != nil || string(before) != string(after) {
		t.Errorf("a second setup.sh: %v, %v", errSetup, err)
	}
}

func (r *composeRun) runSetup(t *testing.T) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(r.dir, "setup.sh"))
	cmd.Env = serverEnv(t.TempDir())
	for key, value := range r.env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	return cmd.CombinedOutput()
}

// checkBundle requires that the signature has an entry of Rekor and a timestamp.
func (r *composeRun) checkBundle(t *testing.T, bundle string) {
	t.Helper()
	content, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		VerificationMaterial struct {
			TlogEntries               []json.RawMessage
			TimestampVerificationData struct{ RFC3161Timestamps []json.RawMessage }
		}
	}
	if err := json.Unmarshal(content, &b); err != nil || len(b.VerificationMaterial.TlogEntries) != 1 || len(b.VerificationMaterial.TimestampVerificationData.RFC3161Timestamps) != 1 {
		t.Errorf("the bundle: %v\n%s", err, content)
	}
}

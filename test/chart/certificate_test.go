// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

// A cluster, as far as the chart's Pods see it: a folder for each Pod, with the files of its volumes.
type cluster struct {
	t       *testing.T
	objects map[string]map[string]string // content of ConfigMaps and Secrets, by name
	dir     string
}

// From nothing to a first certificate by docs/kubernetes.md: a CA, its ConfigMap and Secret; a log that the Job
// creates; then the log's Pod and a replica, each from its rendered configuration and volumes.
func TestFirstCertificate(t *testing.T) {
	t.Parallel()
	for name, features := range map[string]string{
		"server":          "",
		"signing process": "signer: {enabled: true}\n",
		"audit":           "audit: {enabled: true}\nconfig: {audit: {claims: [email]}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			firstCertificate(t, features)
		})
	}
}

func firstCertificate(t *testing.T, features string) {
	mayfly := program(t, "MAYFLY_BINARY")
	world, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	c := &cluster{t: t, dir: t.TempDir(), objects: map[string]map[string]string{"mayfly-log-submit": {"token": "0123456789abcdef0123456789abcdef"}}}
	flat := filepath.Join(c.dir, "flat")
	c.run("../../deploy/helm/flatten-ca.sh", filepath.Join(world.Dir, "ca"), flat)
	c.objects["mayfly-ca"], c.objects["mayfly-ca-keys"] = files(t, flat+"/config"), files(t, flat+"/secret")
	issuers, err := os.ReadFile(filepath.Join(world.Dir, "issuers.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	values := func(log string) string {
		text, err := json.Marshal(string(issuers))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("host: ca.example\nissuers: {content: %s}\nembeddedLogs: [{name: '2026'%s}]\nextraEnv: [{name: MAYFLY_OIDC_ALLOW_LOOPBACK, value: 'true'}]\n", text, log) + features
	}
	_, objects := render(t, values(", initialize: true"))
	c.add(objects)
	addresses, err := testworld.FreeAddresses("127.0.0.1", 8)
	if err != nil {
		t.Fatal(err)
	}
	job := c.pod(objects, "Job mayfly-log-2026-init", addresses[:3])
	key := c.run(mayfly, "ctlog", "init", "--config", filepath.Join(job, "etc/mayfly/mayfly.yaml"))
	text, err := json.Marshal(string(key))
	if err != nil {
		t.Fatal(err)
	}
	_, objects = render(t, values(", publicKey: "+string(text)))
	c.add(objects)
	// Its volumes are those of the Job.
	log := c.pod(objects, "StatefulSet mayfly-log-2026", addresses[:3], [2]string{"/var/lib/mayfly", filepath.Join(job, "var/lib/mayfly")})
	kind := "Deployment"
	if strings.Contains(features, "audit") {
		kind = "StatefulSet"
	}
	replica := c.pod(objects, kind+" mayfly", addresses[3:6], [2]string{"https://ca.example/ctlog/2026", "http://" + addresses[0] + "/ctlog/2026"})
	for i, dir := range []string{log, replica} {
		if strings.Contains(features, "signer") {
			c.start("signing", "signer", "--set", filepath.Join(dir, "signer/etc/mayfly/ca/ca.yaml"), "--socket", filepath.Join(dir, "run/mayfly-signer/d/s"), "--ops", addresses[6+i])
		}
		c.start("serving", "serve", "--config", filepath.Join(dir, "etc/mayfly/mayfly.yaml"))
	}
	token, err := world.Provider.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true})
	if err := errors.Join(err, os.WriteFile(filepath.Join(c.dir, "token"), []byte(token), 0o600)); err != nil {
		t.Fatal(err)
	}
	chain := c.run(mayfly, "request", "--url", "http://"+addresses[3], "--token-file", filepath.Join(c.dir, "token"), "--key", filepath.Join(c.dir, "key.pem"))
	if err := testworld.VerifyChain(chain, world.Root, key); err != nil {
		t.Errorf("%v\n%s", err, chain)
	}
	if kind == "StatefulSet" {
		c.run(mayfly, "audit", "verify", filepath.Join(replica, "var/lib/mayfly/audit"))
	}
}

// add takes over ConfigMaps.
func (c *cluster) add(objects []object) {
	for _, o := range objects {
		if o.Kind == "ConfigMap" {
			c.objects[o.Metadata.Name] = o.Data
		}
	}
}

// pod writes the files of a Pod's projected volumes below a new folder, which it returns. In mayfly.yaml it
// replaces the addresses that listen, /var/lib/mayfly and /run by ones of the folder, and what replace states.
func (c *cluster) pod(objects []object, owner string, listen []string, replace ...[2]string) string {
	c.t.Helper()
	root, err := os.MkdirTemp(c.dir, "pod")
	if err != nil {
		c.t.Fatal(err)
	}
	all := pods(c.t, objects)
	i := slices.IndexFunc(all, func(p pod) bool { return p.owner == owner })
	if i < 0 {
		c.t.Fatalf("there is no %s", owner)
	}
	for _, container := range slices.Concat(all[i].Spec.InitContainers, all[i].Spec.Containers) {
		base := root
		if container.Name == "signer" {
			base = filepath.Join(root, "signer")
		}
		for _, m := range container.VolumeMounts {
			dir := filepath.Join(base, m.MountPath)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				c.t.Fatal(err)
			}
			for name, text := range c.projected(all[i].volume(m.Name)) {
				if name == "mayfly.yaml" {
					text = local(text, root, listen, replace)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
	return root
}

func local(text, root string, listen []string, replace [][2]string) string {
	replace = append(replace, [2]string{":5555", listen[0]}, [2]string{":5554", listen[1]}, [2]string{":2112", listen[2]},
		[2]string{" /var/lib/mayfly", " " + root + "/var/lib/mayfly"}, [2]string{"/run/mayfly-signer", root + "/run/mayfly-signer"})
	for _, r := range replace {
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	return text
}

// projected returns the files of a volume of ConfigMaps and Secrets.
func (c *cluster) projected(volume map[string]any) map[string]string {
	c.t.Helper()
	found := map[string]string{}
	type source struct {
		Name  string
		Items []struct{ Key, Path string }
	}
	v := convert[struct {
		ConfigMap *source `yaml:"configMap"`
		Projected struct {
			Sources []struct {
				ConfigMap *source `yaml:"configMap"`
				Secret    *source
			}
		}
	}](c.t, volume)
	sources := []*source{v.ConfigMap}
	for _, s := range v.Projected.Sources {
		sources = append(sources, s.ConfigMap, s.Secret)
	}
	for _, s := range sources {
		if s == nil {
			continue
		}
		object, ok := c.objects[s.Name]
		if !ok {
			c.t.Fatalf("no %s exists", s.Name)
		}
		for key, text := range object {
			if len(s.Items) == 0 {
				found[key] = text
			}
		}
		for _, item := range s.Items {
			found[item.Path] = object[item.Key]
		}
	}
	return found
}

// run runs a program and returns its output.
func (c *cluster) run(name string, args ...string) []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, name, args...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		c.t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return out
}

// start starts a server, and returns when its log has the message. The server stops with the test.
func (c *cluster) start(message string, args ...string) {
	c.t.Helper()
	command := exec.Command(program(c.t, "MAYFLY_BINARY"), args...)
	command.Env = append(os.Environ(), "MAYFLY_OIDC_ALLOW_LOOPBACK=true")
	testworld.EndWithParent(command)
	lines, err := command.StderrPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	ready, all := make(chan bool, 1), make(chan string, 1)
	go func() {
		var seen strings.Builder
		for s := bufio.NewScanner(lines); s.Scan(); {
			seen.WriteString(s.Text() + "\n")
			if strings.Contains(s.Text(), `"msg":"`+message) {
				select {
				case ready <- true:
				default: // it was there before
				}
			}
		}
		all <- seen.String()
	}()
	c.t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGKILL)
		seen := <-all
		if _ = command.Wait(); c.t.Failed() {
			c.t.Logf("%v:\n%s", args, seen)
		}
	})
	select {
	case <-ready:
	case seen := <-all:
		all <- seen
		c.t.Fatalf("%v has stopped", args)
	case <-time.After(time.Minute):
		c.t.Fatalf("%v does not log %q", args, message)
	}
}

// files returns the contents of the files in a folder, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	found := map[string]string{}
	for _, entry := range entries {
		text, readErr := os.ReadFile(filepath.Join(dir, entry.Name()))
		err = errors.Join(err, readErr)
		found[entry.Name()] = string(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

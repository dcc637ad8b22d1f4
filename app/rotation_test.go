// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// Three replicas serve many clients while an authority is added, activated and retired. They
// started at different times, their clocks differ, and each gets new sets in a different way. No
// request fails. Every certificate verifies against a trust bundle that was fetched from another
// replica up to a day before the request.
//
// ROTATION_CLIENTS and ROTATION_SECONDS (of load between two steps) increase the load.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	newRotationWorld(t).rotateUnderLoad(func(r *rotationWorld) string { return r.add("next") })
}

func (r *rotationWorld) rotateUnderLoad(add func(*rotationWorld) string) {
	t := r.t
	load := r.load(fromEnvironment("ROTATION_CLIENTS", 16))
	// goOn waits for certificates of this step, or for the time that the environment gives.
	goOn := func() {
		if seconds := fromEnvironment("ROTATION_SECONDS", 0); seconds > 0 {
			<-time.After(time.Duration(seconds) * time.Second)
			return
		}
		before := load.certificates()
		await(t, "certificates under load", func() bool { return load.certificates() >= before+50 })
	}
	r.start(1, 400*time.Millisecond, kubernetesSwap)
	goOn()

	// A new authority is published.
	added := add(r)
	r.distribute(2)
	r.start(2, -700*time.Millisecond, tornWrite)
	goOn()

	// A day later it begins to sign, at an instant that the set names.
	activated, err := r.editor().Activate(t.Context(), added, time.Time{})
	r.must(err)
	r.distribute(3)
	before := load.issuedBy(added)
	r.offset.Store(int64(time.Until(activated.Member.ActivateAt.Add(-2 * time.Second))))
	await(t, "certificates of the new authority from every replica", func() bool { return load.replicasOf(added) == len(r.replicas) })
	if before != 0 {
		t.Errorf("the new authority signed %d certificates before its time", before)
	}

	// The old one retires, and later its key is deleted.
	_, err = r.editor().Retire(t.Context(), r.first, time.Time{})
	r.must(err)
	r.distribute(4)
	goOn()
	load.stop()

	t.Logf("%d certificates, %d of %s and %d of %s; %d trust bundles; %d failed requests",
		load.issuedBy(r.first)+load.issuedBy(added), load.issuedBy(r.first), r.first, load.issuedBy(added), added, load.bundles.Load(), load.failed.Load())
	if load.failed.Load() != 0 || load.issuedBy(r.first) == 0 || load.issuedBy(added) == 0 {
		t.Errorf("%d requests failed, or an authority has signed nothing", load.failed.Load())
	}
}

func fromEnvironment(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return fallback
}

// rotationWorld is an operator's folder with a CA set, and replicas with copies of it.
type rotationWorld struct {
	*testworld.World
	t       *testing.T
	set     string // the operator's ca.yaml
	first   string // the ID of the first authority
	modules *keyring.Modules
	offset  atomic.Int64

	mu       sync.Mutex // guards the list
	replicas []*replica
}

type replica struct {
	*running
	dir     string
	deliver func(r *rotationWorld, rep *replica)
	version int
}

func newRotationWorld(t *testing.T) *rotationWorld {
	w := newWorld(t, withSet)
	r := &rotationWorld{t: t, World: w, modules: keyring.NewModules(), set: path(w, "ca/ca.yaml"), first: filepath.Base(filepath.Dir(path(w, chainFile)))}
	r.offset.Store(int64(time.Second)) // so that the slowest clock is past the begin of the first authority
	r.start(0, 0, atomicRename)
	return r
}

func (r *rotationWorld) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// now is the clock that the replicas' clocks differ from by their skew. The test moves it.
func (r *rotationWorld) now() time.Time { return time.Now().Add(time.Duration(r.offset.Load())) }

func (r *rotationWorld) editor() set.Editor {
	return set.Editor{Path: r.set, Now: r.now(), Lead: set.PublicationLead, Ring: keyring.New(keyring.Config{Modules: r.modules})}
}

// add creates an authority below the root and adds it to the operator's set.
func (r *rotationWorld) add(id string) string {
	made, err := testworld.NewAuthority(filepath.Dir(r.set), id, r.now())
	r.must(err)
	_, err = r.editor().Add(r.t.Context(), config.CASetAuthority{
		ID: id, Chain: made.ChainFile,
		Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}},
	}, nil)
	r.must(err)
	return id
}

// start starts a replica with a copy of the operator's set.
func (r *rotationWorld) start(i int, skew time.Duration, deliver func(*rotationWorld, *replica)) {
	rep := &replica{dir: filepath.Join(r.Dir, fmt.Sprintf("replica-%d", i)), deliver: deliver}
	r.must(os.Mkdir(rep.dir, 0o700))
	if i == 2 {
		atomicRename(r, rep) // a server does not start from half a file
	} else {
		deliver(r, rep)
	}
	configFile := path(r.World, fmt.Sprintf("mayfly-%d.yaml", i))
	text, err := os.ReadFile(r.ConfigFile)
	r.must(err)
	r.must(os.WriteFile(configFile, bytes.Replace(text, []byte("ca/ca.yaml"), []byte(filepath.Join(rep.dir, "ca.yaml")), 1), 0o600))
	rep.running = startAs(r.t, r.World, app.Options{ConfigFile: configFile, Modules: r.modules, Now: func() time.Time { return r.now().Add(skew) }})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas = append(r.replicas, rep)
}

func (r *rotationWorld) running() []*replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replicas[:len(r.replicas):len(r.replicas)]
}

// distribute delivers the operator's set to all replicas, and waits until they have loaded it.
func (r *rotationWorld) distribute(generation int) {
	r.t.Helper()
	for _, rep := range r.replicas {
		rep.deliver(r, rep)
	}
	for _, rep := range r.replicas {
		await(r.t, fmt.Sprintf("generation %d", generation), func() bool { return rep.metric(r.t, "mayfly_ca_set_generation") == float64(generation) })
	}
}

// copyAuthorities copies everything but ca.yaml.
func (r *rotationWorld) copyAuthorities(to string) {
	from := filepath.Dir(r.set)
	entries, err := os.ReadDir(from)
	r.must(err)
	for _, entry := range entries {
		if _, err := os.Stat(filepath.Join(to, entry.Name())); err == nil || !entry.IsDir() || entry.Name() == "root" {
			continue
		}
		r.must(os.CopyFS(filepath.Join(to, entry.Name()), os.DirFS(filepath.Join(from, entry.Name()))))
	}
}

// atomicRename delivers the set as an editor or a configuration management tool does.
func atomicRename(r *rotationWorld, rep *replica) {
	r.copyAuthorities(rep.dir)
	r.must(os.WriteFile(filepath.Join(rep.dir, "ca.yaml.new"), must(os.ReadFile(r.set))(r.t), 0o600))
	r.must(os.Rename(filepath.Join(rep.dir, "ca.yaml.new"), filepath.Join(rep.dir, "ca.yaml")))
}

// kubernetesSwap delivers the set as Kubernetes does: a new folder, and a symbolic link that is
// replaced to point to it. The previous folder is removed.
func kubernetesSwap(r *rotationWorld, rep *replica) {
	old := fmt.Sprintf("..version-%d", rep.version)
	rep.version++
	version := fmt.Sprintf("..version-%d", rep.version)
	r.must(os.Mkdir(filepath.Join(rep.dir, version), 0o700))
	r.copyAuthorities(filepath.Join(rep.dir, version))
	r.must(os.WriteFile(filepath.Join(rep.dir, version, "ca.yaml"), must(os.ReadFile(r.set))(r.t), 0o600))
	entries, err := os.ReadDir(filepath.Join(rep.dir, version))
	r.must(err)
	r.must(os.Symlink(version, filepath.Join(rep.dir, "..data_tmp")))
	r.must(os.Rename(filepath.Join(rep.dir, "..data_tmp"), filepath.Join(rep.dir, "..data")))
	for _, entry := range entries {
		link := filepath.Join(rep.dir, entry.Name())
		if _, err := os.Lstat(link); err != nil {
			r.must(os.Symlink(filepath.Join("..data", entry.Name()), link))
		}
	}
	r.must(os.RemoveAll(filepath.Join(rep.dir, old)))
}

// tornWrite overwrites the file in place, and pauses half-way until the replica has read half a
// file and reported it.
func tornWrite(r *rotationWorld, rep *replica) {
	r.copyAuthorities(rep.dir)
	content, name := must(os.ReadFile(r.set))(r.t), filepath.Join(rep.dir, "ca.yaml")
	half, _, _ := strings.Cut(string(content), "_at:") // which ends within a key, so that it is no set
	r.must(os.WriteFile(name, []byte(half), 0o600))
	await(r.t, "the torn file to be noticed", func() bool { return rep.metric(r.t, "mayfly_ca_set_reload_failed") == 1 })
	r.must(os.WriteFile(name, content, 0o600))
}

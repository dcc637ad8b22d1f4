//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
)

// softHSM is shared by all tests: SoftHSM reads its configuration from the process's environment
// when it is initialized, and exists once in a process. Each test creates its tokens before it runs
// in parallel: SoftHSM aborts the process if two threads list its slots after a new token. Tests
// that use the faulty module are never parallel.
var softHSM struct {
	module  string // its path; "" if it is not installed
	faulty  string // the path of testdata/faulty.c, compiled
	control string // the file that the faulty module reads
	calls   string // the file that it writes
	lib     *p11.Ctx

	tokens int // the number of tokens created
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			softHSM.module = path
			break
		}
	}
	if softHSM.module == "" {
		if os.Getenv("MAYFLY_SOFTHSM") == "required" {
			return 1, errors.New("MAYFLY_SOFTHSM=required, and SoftHSM is not installed; run: apt-get install softhsm2")
		}
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "softhsm")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := prepare(dir); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// prepare starts SoftHSM with its tokens below dir, and compiles the faulty module there.
func prepare(dir string) error {
	conf, tokens := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "tokens")
	softHSM.faulty = filepath.Join(dir, "faulty.so")
	softHSM.control, softHSM.calls = filepath.Join(dir, "control"), filepath.Join(dir, "calls")
	err := errors.Join(
		os.Mkdir(tokens, 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600),
		os.WriteFile(softHSM.calls, nil, 0o600),
		os.Setenv("SOFTHSM2_CONF", conf), os.Setenv("FAULTY_MODULE", softHSM.module),
		os.Setenv("FAULTY_CONTROL", softHSM.control), os.Setenv("FAULTY_LOG", softHSM.calls),
	)
	if err != nil {
		return err
	}
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return fmt.Errorf("looking for pkcs11.h: %w", err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	compile := exec.Command(cc, "-Wall", "-Werror", "-fPIC", "-shared", "-I", strings.TrimSpace(string(headers)), "-o", softHSM.faulty, "testdata/faulty.c", "-ldl")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling faulty.c: %w: %s", err, out)
	}
	softHSM.lib = p11.New(softHSM.module)
	return softHSM.lib.Initialize()
}

func requireSoftHSM(t testing.TB) {
	t.Helper()
	if softHSM.module == "" {
		t.Skip("SoftHSM is not installed; run: apt-get install softhsm2")
	}
}

// must fails the test.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// place is a token of one test.
type place struct {
	pkcs11.Config
	pin string
}

// slot finds the token. Its slot changes whenever SoftHSM is initialized.
func (p *place) slot(t testing.TB) uint {
	t.Helper()
	return slotWhere(t, func(info p11.TokenInfo) bool { return info.Label == p.Token })
}

func slotWhere(t testing.TB, fits func(p11.TokenInfo) bool) uint {
	t.Helper()
	slots, err := softHSM.lib.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		info, err := softHSM.lib.GetTokenInfo(slot)
		must(t, err)
		if fits(info) {
			return slot
		}
	}
	t.Fatal("SoftHSM has no such slot")
	return 0
}

// newToken creates a token and a PIN file. Its Config names a key "ca", which does not exist.
func newToken(t testing.TB) *place {
	t.Helper()
	requireSoftHSM(t)
	softHSM.tokens++
	p := &place{Config: pkcs11.Config{Module: softHSM.module, Token: fmt.Sprintf("token %d", softHSM.tokens), Label: "ca"}}
	p.pin = "s3cret of " + p.Token
	p.PINFile = pinFile(t, p.pin+"\n")
	session, err := softHSM.lib.OpenSession(initialize(t, p.Token), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	must(t, err)
	must(t, softHSM.lib.Login(session, p11.CKU_SO, "security officer"), softHSM.lib.InitPIN(session, p.pin),
		softHSM.lib.Logout(session), softHSM.lib.CloseSession(session))
	return p
}

// initialize creates a token without a user PIN.
func initialize(t testing.TB, label string) (slot uint) {
	t.Helper()
	slot = slotWhere(t, func(info p11.TokenInfo) bool { return info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 })
	must(t, softHSM.lib.InitToken(slot, "security officer", label))
	_, err := softHSM.lib.GetSlotList(true) // this creates the next free slot
	must(t, err)
	return slot
}

func pinFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// within calls do with a session that is logged in.
func (p *place) within(t testing.TB, do func(p11.SessionHandle)) {
	t.Helper()
	session, err := softHSM.lib.OpenSession(p.slot(t), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	must(t, err)
	if err := softHSM.lib.Login(session, p11.CKU_USER, p.pin); err != nil && !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		t.Fatal(err)
	}
	do(session)
	must(t, softHSM.lib.CloseSession(session))
}

// pair generates a key pair. more are attributes of the private key.
func (p *place) pair(t testing.TB, label string, id byte, mechanism uint, public *p11.Attribute, more ...*p11.Attribute) {
	t.Helper()
	common := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, []byte{id})}
	private := append([]*p11.Attribute{p11.NewAttribute(p11.CKA_PRIVATE, true)}, append(common, more...)...)
	if len(more) == 0 {
		private = append(private, p11.NewAttribute(p11.CKA_SIGN, true))
	}
	p.within(t, func(session p11.SessionHandle) {
		_, _, err := softHSM.lib.GenerateKeyPair(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, append([]*p11.Attribute{public}, common...), private)
		must(t, err)
	})
}

func (p *place) ec(t testing.TB, label string, id byte, params string, more ...*p11.Attribute) {
	t.Helper()
	p.pair(t, label, id, p11.CKM_EC_KEY_PAIR_GEN, p11.NewAttribute(p11.CKA_EC_PARAMS, []byte(params)), more...)
}

func (p *place) rsa(t testing.TB, label string, id byte, bits int) {
	t.Helper()
	p.pair(t, label, id, p11.CKM_RSA_PKCS_KEY_PAIR_GEN, p11.NewAttribute(p11.CKA_MODULUS_BITS, bits))
}

const (
	p256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	p384 = "\x06\x05\x2b\x81\x04\x00\x22"
)

// open opens a key, which is closed at the test's end.
func open(t testing.TB, m *pkcs11.Modules, cfg pkcs11.Config) signer.Key {
	t.Helper()
	key, err := m.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, key.Close()) })
	return key
}

// misbehave makes the faulty module do as lines say, until the caller calls mend.
func misbehave(t testing.TB, lines ...string) (mend func()) {
	t.Helper()
	// The rename ensures that the module never reads half of it.
	must(t, os.WriteFile(softHSM.control+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600), os.Rename(softHSM.control+".new", softHSM.control))
	mend = sync.OnceFunc(func() { must(t, os.RemoveAll(softHSM.control)) })
	t.Cleanup(mend)
	return mend
}

// calls returns a function that returns what the faulty module has written since: the answers to
// C_Login, and "hangs".
func calls(t testing.TB) func() []string {
	t.Helper()
	read := func() []string {
		content, err := os.ReadFile(softHSM.calls)
		must(t, err)
		return strings.Fields(string(content))
	}
	before := len(read())
	return func() []string { return read()[before:] }
}

// states checks that err holds wants and not the PIN.
func (p *place) states(t testing.TB, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Error("there is no error")
		return
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q; it should hold %q", err, want)
		}
	}
	if strings.Contains(err.Error(), p.pin) || strings.Contains(err.Error(), "guessed") {
		t.Errorf("the error shows a PIN: %q", err)
	}
}

// faultyToken returns a token with a key, behind the faulty module.
func faultyToken(t testing.TB) *place {
	t.Helper()
	p := newToken(t)
	p.ec(t, "ca", 1, p256)
	p.Module = softHSM.faulty
	return p
}

// with returns the Config with another PIN file.
func (p *place) with(t testing.TB, pin string) pkcs11.Config {
	t.Helper()
	cfg := p.Config
	cfg.PINFile = pinFile(t, pin)
	return cfg
}

// relied returns a Signer of a key.
func (p *place) relied(t testing.TB, m *pkcs11.Modules) *signer.Signer {
	t.Helper()
	cfg := p.Config
	key, err := m.Open(t.Context(), cfg)
	must(t, err)
	s, err := signer.New(signer.Config{
		Name: "ca", Kind: "pkcs11", Public: key.Public(), Open: func(ctx context.Context) (signer.Key, error) { return m.Open(ctx, cfg) },
		Timeout: 25 * time.Second, Attempt: 10 * time.Second, // for a busy machine
	})
	must(t, err, s.Prove(t.Context()), key.Close())
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

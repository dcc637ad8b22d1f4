// SPDX-License-Identifier: Apache-2.0

package migrate_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/migrate"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fulcio is a folder with the files of a Fulcio: chain.pem, key.pem, log.pub and config.yaml; and the password of the key.
type fulcio struct {
	*testworld.World
	dir, password string
}

func newFulcio(t *testing.T) fulcio {
	t.Helper()
	dir := t.TempDir()
	w := must(testworld.New(t.TempDir()))(t)
	t.Cleanup(w.Close)
	authority := filepath.Dir(must(filepath.Glob(w.Dir + "/ca/*-a/chain.pem"))(t)[0])
	for from, to := range map[string]string{
		authority + "/chain.pem": "chain.pem", authority + "/key.pem": "key.pem", w.Dir + "/log.pub": "log.pub", w.Dir + "/issuers.yaml": "config.yaml",
	} {
		must(0, os.WriteFile(filepath.Join(dir, to), must(os.ReadFile(from))(t), 0o600))(t)
	}
	return fulcio{w, dir, strings.TrimSpace(string(must(os.ReadFile(authority + "/pass"))(t)))}
}

// write writes a file of the folder.
func (f fulcio) write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(f.dir, name)
	must(0, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)))(t)
	return path
}

// flags is a command line with fileca, the log and further flags.
func (f fulcio) flags(more string) string {
	return strings.NewReplacer("DIR", f.dir, "PASSWORD", "'"+f.password+"'", "LOG", f.LogURL).Replace("fulcio serve --ca=fileca --fileca-cert DIR/chain.pem --fileca-key=DIR/key.pem " +
		"--fileca-key-passwd=PASSWORD --config-path=DIR/config.yaml --ct-log-url=LOG --ct-log-public-key-path=DIR/log.pub " + more)
}

// run migrates into a new folder.
func run(t *testing.T, o migrate.Options) (out string, err error) {
	t.Helper()
	parent := t.TempDir()
	o.Out = filepath.Join(parent, "out")
	if err = migrate.Run(t.Context(), o); err != nil {
		if left := must(os.ReadDir(parent))(t); len(left) > 0 {
			t.Errorf("after an error, %s is left", left[0].Name())
		}
	}
	return o.Out, err
}

func file(t *testing.T, dir, name string) string {
	t.Helper()
	return string(must(os.ReadFile(filepath.Join(dir, name)))(t))
}

// lacks reports what a text lacks.
func lacks(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %q:\n%s", what, want, text)
		}
	}
}

// With Fulcio's own chain, key and password, a server starts from what migrate wrote, and issues a certificate. The
// password is in one file of mode 0600 only. The same source gives the same files.
func TestMigratedServerIssues(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	options := migrate.Options{Flags: f.flags("--port=5555 --grpc-port=5554 --log_type=prod --idle-connection-timeout 60s --client-signing-algorithms=ecdsa-sha2-256-nistp256,ed25519 " +
		"--kms-resource=awskms:///alias/x --legacy-unix-domain-socket=/var/run/f.sock --ct-log-origin=log --read-header-timeout=7s --fileca-watch=false --metrics-port=2113")}
	out := must(run(t, options))(t)
	lacks(t, "mayfly.yaml", file(t, out, "mayfly.yaml"), "http: 0.0.0.0:5555 #", "grpc: 0.0.0.0:5554 #", "ops: 0.0.0.0:2113 #", "allow_loopback: true", "algorithms: [ecdsa-p256, ed25519]",
		"idle: 60s", "format: json", "public_key: "+f.dir+"/log.pub")
	lacks(t, "ca.yaml", file(t, out, "ca.yaml"), "chain: "+f.dir+"/chain.pem", "key: "+f.dir+"/key.pem", "password_file: fulcio-key-password")
	lacks(t, "report.md", file(t, out, "report.md"), "| `fileca-key-passwd` | (secret) |", "| `legacy-unix-domain-socket` | `/var/run/f.sock` | nothing", "| `kms-resource` | `awskms:///alias/x` | nothing: `ca` is fileca |", "| `ca` | `fileca` | `authorities", "| `host` | `0.0.0.0` (default) |")
	if got, want := file(t, out, "issuers.yaml"), file(t, f.dir, "config.yaml"); got != want {
		t.Errorf("issuers.yaml is %q, want %q", got, want)
	}
	var names []string
	for _, entry := range must(os.ReadDir(out))(t) {
		name := entry.Name()
		names = append(names, name)
		secret := name == "fulcio-key-password"
		if mode := must(entry.Info())(t).Mode(); secret && mode != 0o600 {
			t.Errorf("%s has the mode %v", name, mode)
		}
		if strings.Contains(file(t, out, name), f.password) != secret {
			t.Errorf("%s: does it hold the password? %t is expected", name, secret)
		}
	}
	if diff := cmp.Diff([]string{"ca.yaml", "fulcio-key-password", "issuers.yaml", "mayfly.yaml", "report.md", "values.yaml"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	again := must(run(t, options))(t)
	for _, name := range names {
		if diff := cmp.Diff(file(t, out, name), strings.ReplaceAll(file(t, again, name), again, out)); diff != "" {
			t.Errorf("%s differs the second time (-first +second):\n%s", name, diff)
		}
	}
	if report := must(app.Check(t.Context(), app.CheckOptions{File: out + "/mayfly.yaml"}))(t); len(report.Mistakes) > 0 {
		t.Errorf("config check: %v", report.Mistakes)
	}
	serve(t, f, out)
}

// serve starts a server with the files of out, and requests a certificate.
func serve(t *testing.T, f fulcio, out string) {
	t.Helper()
	built := must(app.Build(t.Context(), app.Options{ConfigFile: out + "/mayfly.yaml", Environ: []string{"MAYFLY_LISTEN_HTTP=127.0.0.1:0", "MAYFLY_LISTEN_GRPC=localhost:0", "MAYFLY_LISTEN_OPS=127.0.0.1:0"}}))(t)
	listeners := must(built.Listen())(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- built.Run(ctx, listeners) }()
	c := must(client.New(client.Config{URL: "http://" + listeners.HTTP.Addr().String()}))(t)
	chain, err := f.Request(t.Context(), c, false)
	for range 50 { // until the issuer has been asked
		if err == nil || t.Context().Err() != nil {
			break
		}
		chain, err = f.Request(t.Context(), c, false)
	}
	if err == nil {
		err = f.Verify(chain)
	}
	stop()
	if err := errors.Join(err, <-done); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A setting is a flag, a key of the file that --config names or of --from-config, or a variable; the first that has it
// counts, and --set before all.
func TestSources(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	file1 := f.write(t, "fulcio.yaml", "Port: 1111\ngrpc-port: 2222\nmetrics-port: 3333\nhost: 10.0.0.1\nclient-signing-algorithms:\n  - ed25519\n  - rsa-sign-pkcs1-4096-sha256\nct-log: {tls-ca-cert: }\nlog_type: dev\n"+
		"ca: fileca\nfileca-cert: "+f.dir+"/chain.pem\nfileca-key: "+f.dir+"/key.pem\nfileca-key-passwd: \""+f.password+"\"\nconfig-path: "+f.dir+"/config.yaml\nct-log-url: "+f.LogURL+"\nct-log-public-key-path: "+f.dir+"/log.pub\n")
	variables := f.write(t, "env", "# of a container\nPATH=/bin\nexport GRPC_PORT=4444\nMETRICS_PORT='5555'\nCT_LOG_ORIGIN=\nHTTP-PORT=9\n")
	for name, test := range map[string]struct {
		options migrate.Options
		want    []string
	}{
		"file":      {migrate.Options{ConfigFile: file1}, []string{"http: 10.0.0.1:1111", "grpc: 0.0.0.0:2222", "ops: 10.0.0.1:3333", "algorithms: [ed25519, rsa-4096]", "format: text"}},
		"variables": {migrate.Options{ConfigFile: file1, EnvFile: variables}, []string{"http: 10.0.0.1:1111", "grpc: 0.0.0.0:4444", "ops: 10.0.0.1:5555"}},
		"flags":     {migrate.Options{Flags: "serve -c " + file1 + " --fileca-watch --metrics-port 6666 --http-host=::1", EnvFile: variables}, []string{`http: '[::1]:1111'`, "grpc: 0.0.0.0:4444", `ops: '[::1]:6666'`}},
		"forms": {migrate.Options{Flags: "-c " + file1 + " --fileca-watch=T --port=1 --http-port=8 --host='[::1]' --client-signing-algorithms ed25519 --client-signing-algorithms 'ecdsa-sha2-256-nistp256 rsa-sign-pkcs1-2048-sha256,'"},
			[]string{`http: '[::1]:8'`, "algorithms: [ed25519, ecdsa-p256, rsa-2048]"}},
		"set": {migrate.Options{Flags: "--config=" + file1 + " --metrics-port 6666", Set: []string{"metrics-port=7777", "grpc-port=1111"}}, []string{"ops: 10.0.0.1:7777", "http: 10.0.0.1:1111", "grpc: 10.0.0.1:1111"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := must(run(t, test.options))(t)
			lacks(t, "mayfly.yaml", file(t, out, "mayfly.yaml"), test.want...)
		})
	}
}

// Every mistake is reported at its place, all at once, and nothing is written. No message shows a secret.
func TestMistakes(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	yaml := f.write(t, "wrong.yaml", "prot: 1\nfileca-cret: hunter2\nct-log: {tls-ca-cret: x}\nmetrics-port: x\nhost: a\nhost: b\nport: *x\n")
	yaml2 := f.write(t, "wrong2.yaml", "ca: &x fileca\nport: *x\nlog_type: debug\n")
	f.write(t, "private.pem", "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n")
	crypto := f.write(t, "crypto11.conf", `{"Path": "/lib/m.so", "TokenLabel": "ca", "Pin": hunter2}`)
	unknown := f.write(t, "unknown.conf", `{"Path": "/lib/m.so", "TokenLable": "ca", "Pin": "hunter2"}`)
	broken := f.write(t, "broken.yaml", "oidc-issuers:\n  https://a.example:\n    issuer-url: https://b.example\n    client-id: sigstore\n    type: email\n")
	values := f.write(t, "values.yaml", "server:\n  args:\n    certificateAuthorty: fileca\n  image: {tag: x}\n  replicaCount: 2\nconfig:\n  contents: ''\n")
	ca := "--ca=fileca --fileca-cert=" + f.dir + "/chain.pem --fileca-key=" + f.dir + "/key.pem --config-path=" + f.dir + "/config.yaml "
	log := "--ct-log-public-key-path=" + f.dir + "/log.pub "
	first, root, _ := strings.Cut(file(t, f.dir, "chain.pem"), "-----END CERTIFICATE-----\n")
	reversed := f.write(t, "reversed.pem", root+first+"-----END CERTIFICATE-----\n")
	for name, test := range map[string]struct {
		options migrate.Options
		wants   []string // each at the begin of a line
	}{
		"names":     {migrate.Options{Flags: "--prot=1 --grcp-port 2 --fileca-key-passw hunter2 --ca=tink stray " + ca}, []string{`--from-flags: --prot: Fulcio has no setting "prot"; did you mean "port"?`, `--from-flags: --grcp-port: Fulcio has no setting "grcp-port"; did you mean "grpc-port"?`, `--from-flags: --fileca-key-passw: Fulcio has no setting "fileca-key-passw"; did you mean "fileca-key-passwd"?`, "--from-flags: --ca: a word follows"}},
		"values":    {migrate.Options{Flags: "--port=0 --grpc-port=x --idle-connection-timeout 5 --ca=pkcs11 --log_type=json --fileca-watch=maybe --gcp-kms-retries=-1 --client-signing-algorithms=rsa"}, []string{"--from-flags: --port: port: found \"0\", expected a port", "--from-flags: --grpc-port: ", "--from-flags: --idle-connection-timeout: ", "--from-flags: --ca: ca: found \"pkcs11\", expected fileca, ", "--from-flags: --log_type: ", "--from-flags: --fileca-watch: ", "--from-flags: --gcp-kms-retries: ", "--from-flags: --client-signing-algorithms: "}},
		"quotes":    {migrate.Options{Flags: "--fileca-key-passwd='hunter2"}, []string{"--from-flags: the quote ' is not closed"}},
		"variable":  {migrate.Options{Flags: `--fileca-key-passwd="$PASSWORD"`}, []string{`--from-flags: '$' has a meaning in a shell`}},
		"container": {migrate.Options{Flags: ca + log + `--fileca-key-passwd='$(PASSWORD)'`}, []string{"--from-flags: --fileca-key-passwd: fileca-key-passwd: found a variable"}},
		"file":      {migrate.Options{ConfigFile: yaml}, []string{yaml + ": found no YAML mapping"}},
		"anchor":    {migrate.Options{ConfigFile: f.write(t, "anchor.yaml", "fileca-key-passwd: *hunter2\n")}, []string{f.dir + "/anchor.yaml: found no YAML mapping"}},
		"comment":   {migrate.Options{Flags: ca + log + "--fileca-key='" + f.write(t, "a # b.pem", "none") + "'"}, []string{"--from-flags: --fileca-key: "}},
		"keys":      {migrate.Options{ConfigFile: yaml2}, []string{yaml2 + ":2:1: the key port is repeated, or has an alias", yaml2 + `:3:1: log_type: found "debug"`}},
		"missing":   {migrate.Options{Flags: "--ca=fileca --fileca-key=none.pem --grpc-tls-key=k.pem"}, []string{"config-path: open /etc/fulcio-config/config.yaml: no such file", "fileca-cert: the chain of the authority is missing", "ct-log-public-key-path: the public key of the log http://localhost:6962/test is missing", "grpc-tls-certificate: "}},
		"log's key": {migrate.Options{Flags: ca + "--ct-log-public-key-path=" + f.dir + "/private.pem --ct-log.tls-ca-cert=" + f.dir + "/log.pub"}, []string{"--from-flags: --ct-log-public-key-path: " + f.dir + "/private.pem: ", "--from-flags: --ct-log.tls-ca-cert: " + f.dir + "/log.pub: it holds a PEM block of type"}},
		"password":  {migrate.Options{Flags: ca + log + "--fileca-key-passwd=hunter2"}, []string{"--from-flags: --fileca-key-passwd: the password in "}},
		"order":     {migrate.Options{Flags: f.flags("--fileca-cert=" + reversed)}, []string{"--from-flags: --fileca-cert: " + reversed + ": certificate 1 of the chain "}},
		"TLS":       {migrate.Options{Flags: f.flags("--grpc-tls-certificate=none.pem --grpc-tls-key=none.key")}, []string{"--from-flags: --grpc-tls-certificate: reading the TLS certificate"}},
		"ports":     {migrate.Options{Flags: f.flags("--metrics-port=8080 --port=99999")}, []string{"--from-flags: --port: "}},
		"issuers":   {migrate.Options{Flags: f.flags("--config-path=" + broken)}, []string{broken + `:3:17: issuer-url "https://b.example" is not the entry's key`}},
		"tink":      {migrate.Options{Flags: log + "--ca=tinkca --tink-keyset-path=k --config-path=" + f.dir + "/config.yaml"}, []string{"--from-flags: --ca: tinkca: no equivalent: mayfly opens no Tink keyset."}},
		"google":    {migrate.Options{Flags: log + "--ca=googleca --config-path=" + f.dir + "/config.yaml"}, []string{"--from-flags: --ca: googleca: no equivalent: Google's CA service"}},
		"ephemeral": {migrate.Options{Flags: log + "--ca=ephemeralca --config-path=" + f.dir + "/config.yaml"}, []string{"--from-flags: --ca: ephemeralca: its key is lost"}},
		"PIN":       {migrate.Options{Flags: "--ca=pkcs11ca --hsm-caroot-id=7 --pkcs11-config-path=" + crypto}, []string{"--from-flags: --pkcs11-config-path: " + crypto + ": it is no JSON", "aws-hsm-root-ca-path: the chain of the authority is missing: export it: pkcs11-tool --module MODULE --read-object --type cert --id 7 "}},
		"token":     {migrate.Options{Flags: "--ca=pkcs11ca --pkcs11-config-path=" + unknown}, []string{"--from-flags: --pkcs11-config-path: " + unknown + `: json: unknown field "TokenLable"`}},
		"Google's":  {migrate.Options{Flags: "--ca=kmsca --kms-resource=gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k"}, []string{"--from-flags: --kms-resource: the version of the key is missing: --set kms-resource=gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"}},
		"Azure's":   {migrate.Options{Flags: "--ca=kmsca --kms-resource=azurekms://vault.example/key"}, []string{"--from-flags: --kms-resource: found \"azurekms://vault.example/key\", expected azurekms://HOST/KEY/VERSION"}},
		"version":   {migrate.Options{Flags: "--ca=kmsca --kms-resource=azurekms://vault.example/key/"}, []string{"--from-flags: --kms-resource: found \"azurekms://vault.example/key/\", expected azurekms://HOST/KEY/VERSION"}},
		"service":   {migrate.Options{Flags: "--ca=kmsca --kms-resource=file:///k"}, []string{"--from-flags: --kms-resource: kms-resource: found \"file:///k\", expected a URI"}},
		"set":       {migrate.Options{Flags: ca, Set: []string{"ct-log-url", "fileca-key-passwd:hunter2"}}, []string{"--set: found no =", "ct-log-public-key-path: the public key of the log"}},
		"chart":     {migrate.Options{HelmValues: values, Ignore: []string{"server.imgae"}}, []string{"--ignore server.imgae: the values of the chart do not have it", values + `:3:5: the value server.args.certificateAuthorty is not known; did you mean "server.args.certificateAuthority"?; --ignore server.args.certificateAuthorty leaves it out`, values + ":4:3: the value server.image is not known"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := run(t, test.options)
			var mistakes config.Mistakes
			if !errors.As(err, &mistakes) {
				t.Fatalf("got error %v, want mistakes", err)
			}
			for _, want := range test.wants {
				if !slices.ContainsFunc(mistakes, func(m config.Mistake) bool { return strings.HasPrefix(m.Error(), want) }) {
					t.Errorf("no line begins with %q:\n%v", want, err)
				}
			}
			if strings.Count(err.Error(), "\n") != len(mistakes)-1 {
				t.Errorf("a mistake has several lines: %v", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a message has a secret: %v", err)
			}
		})
	}
}

// A directory with content and a file of the command line that cannot be read are no mistakes of the source.
func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	full := t.TempDir()
	must(0, os.WriteFile(full+"/mine", nil, 0o600))(t)
	if err := migrate.Run(t.Context(), migrate.Options{Flags: f.flags(""), Out: full}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a full directory: %v", err)
	}
	if err := migrate.Run(t.Context(), migrate.Options{Flags: f.flags(""), Out: full + "/mine"}); err == nil {
		t.Error("a file was replaced")
	}
	empty, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	must(0, errors.Join(os.Chmod(empty, 0o700), os.Symlink(empty, link)))(t)
	before := must(os.Stat(empty))(t)
	if err := migrate.Run(t.Context(), migrate.Options{Flags: f.flags("--port=x"), Out: link}); err == nil || len(must(os.ReadDir(empty))(t)) > 0 {
		t.Errorf("with a mistake, into an empty directory: %v", err)
	}
	if err := migrate.Run(t.Context(), migrate.Options{Flags: f.flags("--metrics-port=8080"), Out: link}); err == nil || len(must(os.ReadDir(empty))(t)) > 0 {
		t.Errorf("with a mistake of the result, into an empty directory: %v", err)
	}
	err := migrate.Run(t.Context(), migrate.Options{Flags: f.flags(""), Out: link})
	if after := must(os.Stat(empty))(t); err != nil || file(t, empty, "mayfly.yaml") == "" || len(must(os.ReadDir(empty))(t)) != 6 || !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("into an empty directory: %v; its mode is %v", err, after.Mode())
	}
	for _, options := range []migrate.Options{{ConfigFile: "none.yaml"}, {HelmValues: "none.yaml"}, {Flags: f.flags(""), EnvFile: "none"}, {Flags: "-c none.yaml"}} {
		if _, err := run(t, options); !errors.Is(err, fs.ErrNotExist) || errors.As(err, new(config.Mistakes)) {
			t.Errorf("%+v: %v", options, err)
		}
	}
}

// Keys at services and in tokens stay there. A PIN becomes a file.
func TestKeysElsewhere(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	conf := f.write(t, "crypto11.conf", `{"Path": "/usr/lib/softhsm/libsofthsm2.so", "TokenLabel": "fulcio", "Pin": "2324", "MaxSessions": 4}`)
	rest := " --config-path=" + f.dir + "/config.yaml --ct-log-url="
	for flags, wants := range map[string][]string{
		"--ca=kmsca --kms-resource=awskms:///arn:aws:kms:eu-north-1:111122223333:key/1234 --kms-cert-chain-path=CHAIN": {"uri: awskms:///arn:aws:kms:eu-north-1:111122223333:key/1234 #"},
		"--ca=kmsca --kms-resource=gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/3 --kms-cert-chain-path=CHAIN": {
			"uri: gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3 #"},
		"--ca=kmsca --kms-resource=azurekms://v.vault.azure.net/ca/0123 --kms-cert-chain-path=CHAIN":                        {"uri: azurekms://v.vault.azure.net/ca/0123 #"},
		"--ca=kmsca --kms-resource=hashivault://ca --kms-cert-chain-path=CHAIN":                                             {"uri: hashivault://ca #", "version: 1 #"},
		"--ca=pkcs11ca --hsm-caroot-id=7 --hsm-key-label=signing --aws-hsm-root-ca-path=CHAIN --pkcs11-config-path=" + conf: {"module: /usr/lib/softhsm/libsofthsm2.so #", "token: fulcio #", "label: signing #", "pin_file: fulcio-pin #"},
	} {
		out := must(run(t, migrate.Options{Flags: strings.ReplaceAll(flags, "CHAIN", f.dir+"/chain.pem") + rest}))(t)
		lacks(t, "ca.yaml", file(t, out, "ca.yaml"), append(wants, "id: fulcio", "chain: "+f.dir+"/chain.pem")...)
		lacks(t, "mayfly.yaml", file(t, out, "mayfly.yaml"), "disabled: true # ct-log-url is empty")
		lacks(t, "report.md", file(t, out, "report.md"), "make build SIGNERS=")
		if _, _, err := config.LoadCASet(out + "/ca.yaml"); err != nil {
			t.Error(err)
		}
		if strings.Contains(flags, "pkcs11ca") {
			if got := file(t, out, "fulcio-pin"); got != "2324\n" || must(os.Stat(out+"/fulcio-pin"))(t).Mode() != 0o600 {
				t.Errorf("the PIN's file has %q", got)
			}
			for _, name := range []string{"ca.yaml", "report.md", "values.yaml", "mayfly.yaml"} {
				if strings.Contains(file(t, out, name), "2324") {
					t.Errorf("%s has the PIN", name)
				}
			}
		}
	}
}

// With a new CA set in place of a keyset of Tink, all else is migrated, and the report states why.
func TestNewCASet(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	flags := "--ca=tinkca --tink-keyset-path=/etc/k --tink-kms-resource=gcp-kms://k --tink-cert-chain-path=/etc/c --config-path=" + f.dir + "/config.yaml --ct-log-url=" + f.LogURL + " --ct-log-public-key-path=" + f.dir + "/log.pub"
	out := must(run(t, migrate.Options{Flags: flags, CASet: f.Dir + "/ca/ca.yaml"}))(t)
	lacks(t, "report.md", file(t, out, "report.md"), "## What has no equivalent", "`ca: tinkca`: no equivalent: mayfly opens no Tink keyset", "| `ca` | `tinkca` | nothing: `--ca-set` replaces the authority |")
	serve(t, f, out)
}

// The files of a container are in a folder of this machine: paths stay those of the container, and keys need not be there.
func TestRoot(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	root := t.TempDir()
	for from, to := range map[string]string{"chain.pem": "/etc/fulcio/chain.pem", "log.pub": "/etc/fulcio/log.pub", "config.yaml": "/etc/fulcio-config/config.yaml"} {
		must(0, errors.Join(os.MkdirAll(filepath.Dir(root+to), 0o700), os.WriteFile(root+to, []byte(file(t, f.dir, from)), 0o600)))(t)
	}
	flags := "--ca=fileca --fileca-cert=/etc/fulcio/chain.pem --fileca-key=/run/key.pem --fileca-key-passwd='" + f.password + "' --ct-log-public-key-path=/etc/fulcio/log.pub --ct-log-url=https://log.example " +
		"--ct-log.tls-ca-cert=/etc/fulcio/chain.pem --grpc-tls-certificate=/etc/tls.crt --grpc-tls-key=/etc/tls.key"
	out := must(run(t, migrate.Options{Flags: flags, Root: root}))(t)
	lacks(t, "ca.yaml", file(t, out, "ca.yaml"), "chain: /etc/fulcio/chain.pem #", "key: /run/key.pem #")
	lacks(t, "mayfly.yaml", file(t, out, "mayfly.yaml"), "public_key: /etc/fulcio/log.pub #", "ca_file: /etc/fulcio/chain.pem #", "certificate: /etc/tls.crt #", "key: /etc/tls.key #")
	lacks(t, "values.yaml", file(t, out, "values.yaml"), "ca_file: ct/log-ca.pem #", "log-ca.pem: |", "tls: {secretName: mayfly-tls}")
	lacks(t, "report.md", file(t, out, "report.md"), "- **The REST port has TLS too**", "kubectl create secret tls mayfly-tls --cert=/etc/tls.crt --key=/etc/tls.key")
}

// Faults that Fulcio tolerates need compat, and are in the report with their lines in Fulcio's file; comments and
// anchors stay, and issuers with http URLs are permitted by their hosts.
func TestIdentityFile(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	const identities = `# ours
define:
  - &email {issuer-url: https://a.example, client-id: sigstore, type: email}
oidc-issuers:
  https://a.example: *email
  http://dex.corp:5556:
    issuer-url: http://dex.corp:5556 # inner
    client-id: sigstore
    type: email
    owner: team
`
	path := f.write(t, "identities.yaml", identities)
	out := must(run(t, migrate.Options{Flags: f.flags("--config-path=" + path)}))(t)
	lacks(t, "mayfly.yaml", file(t, out, "mayfly.yaml"), "compat: true #", "insecure_hosts: [dex.corp] #")
	lacks(t, "report.md", file(t, out, "report.md"), "- "+path+`:10:5: unknown key "owner"`, "`oidc.insecure_hosts` permits")
	if got := file(t, out, "issuers.yaml"); got != identities {
		t.Errorf("the file has changed: %s", got)
	}
	f.write(t, "identities.yaml", strings.Replace(identities, "    owner: team\n", "", 1))
	out = must(run(t, migrate.Options{Flags: f.flags("--config-path=" + path)}))(t)
	if strings.Contains(file(t, out, "mayfly.yaml"), "compat") {
		t.Error("compat is set without a fault")
	}
}

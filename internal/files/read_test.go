// SPDX-License-Identifier: Apache-2.0

package files

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPermissionsThatKubernetesGives lists the owners, groups and modes of mounted secrets, and
// those that a secret must not have.
func TestPermissionsThatKubernetesGives(t *testing.T) {
	t.Parallel()
	const root, server, other = 0, 65532, 1000
	groups := []int{server, 2000} // 2000 is the fsGroup
	for name, test := range map[string]struct {
		mode         fs.FileMode
		owner, group int
		want         bool
	}{
		"its own":                               {0o600, server, server, false},
		"its own, read only":                    {0o400, server, server, false},
		"its own, its group":                    {0o640, server, server, false},
		"its own, another of its groups":        {0o440, server, 2000, false},
		"defaultMode 0400 and fsGroup":          {0o440, root, 2000, false},
		"a projected volume":                    {0o640, root, 2000, false},
		"no group bits, of another":             {0o600, root, root, false},
		"another's, a group that is not its":    {0o440, root, root, false},
		"executable for the group":              {0o750, server, server, false},
		"nothing for the owner":                 {0o040, root, 2000, false},
		"its own, a group that is not its":      {0o640, server, other, true},
		"defaultMode left out":                  {0o644, root, root, true},
		"defaultMode left out, fsGroup":         {0o644, root, 2000, true},
		"its own, for all":                      {0o604, server, server, true},
		"a volume's fsGroup, which may write":   {0o660, root, 2000, true},
		"its own, its group may write":          {0o620, server, server, true},
		"all may write":                         {0o602, server, server, true},
		"all may write and its group read only": {0o646, root, 2000, true},
		"all may execute":                       {0o601, server, server, true},
	} {
		if how := exposed(test.mode, test.owner, test.group, server, groups); (how != "") != test.want {
			t.Errorf("%s: %q, want a warning: %v", name, how, test.want)
		}
	}
}

// TestReadFollowsMountedLinks reads a key as Kubernetes mounts it, behind two links. The warning is
// about the file's own mode and holds no command that could lock the server out.
func TestReadFollowsMountedLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for mode, warned := range map[fs.FileMode]bool{0o440: false, 0o640: false, 0o644: true} {
		data := filepath.Join(dir, "..data-"+mode.String())
		link := filepath.Join(dir, "key-"+mode.String())
		for _, err := range []error{
			os.Mkdir(data, 0o755), os.WriteFile(filepath.Join(data, "key"), []byte("secret"), 0o600), os.Chmod(filepath.Join(data, "key"), mode),
			os.Symlink(filepath.Base(data), data+"-link"), os.Symlink(filepath.Join(filepath.Base(data)+"-link", "key"), link),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		content, warning, err := ReadSecret(link, 10)
		if err != nil || string(content) != "secret" || (warning != nil) != warned {
			t.Errorf("mode %04o: %q, %v, %v", mode, content, warning, err)
		}
		if warning != nil && strings.Contains(warning.Error(), "chmod") {
			t.Errorf("mode %04o: %v", mode, warning)
		}
	}
}

// A byte order mark and one line ending are not part of a secret.
func TestReadSecretLine(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pass")
	for content, want := range map[string]string{"\ufeffsecret\r\n": "secret", " secret \n\n": " secret \n", "\ufeff\n": "", "\xff\xfes\x00": ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, _, err := ReadSecretLine(file, "a password")
		if string(secret) != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q and error %v, want %q", content, secret, err, want)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", "secret\n\n": "secret\n", " secret \n": " secret ",
		"\ufeff" + "secret\n": "secret", "a" + "\ufeff": "a" + "\ufeff", "\ufeff": "", "": "", "\n": "", "p": "p", "pw": "pw", "pässwörd\n": "pässwörd",
	} {
		if got, err := Line([]byte(data)); err != nil || string(got) != want {
			t.Errorf("%q: got %q and error %v, want %q", data, got, err, want)
		}
	}
	for _, data := range []string{"\xff\xfes\x00e\x00", "\xfe\xff\x00s\x00e", "s\x00e\x00c\x00", "\x00s\x00e\x00c", "\xff\xfe\x00\x00s\x00\x00\x00"} {
		if got, err := Line([]byte(data)); err == nil {
			t.Errorf("%q: got %q, want an error", data, got)
		}
	}
}

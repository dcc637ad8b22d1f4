// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

// roleVariable makes the test binary another process.
const roleVariable = "MAYFLY_SOCKET_TEST_ROLE"

// play is what the other process does.
func play(role string) int {
	var err error
	switch role {
	case "ask":
		err = ask()
	case "serve":
		err = serveBenchmark()
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// ask asks for a signature as any key does.
func ask() error {
	public, err := parsePublic(os.Getenv("KEY"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	key, err := socket.Open(ctx, socket.Config{Path: os.Getenv("SOCKET"), Public: public})
	if err == nil {
		_, err = key.Sign(ctx, []byte("message"))
	}
	if err != nil {
		return fmt.Errorf("transient %t: %w", signer.IsTransient(err), err)
	}
	fmt.Println("signed")
	return nil
}

// askAs asks as the user with the ID given, and returns what came of it.
func askAs(t *testing.T, uid uint32, path string, public []byte) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	// The other user need not reach the folder in which the test binary was built.
	binary := filepath.Join(filepath.Dir(path), "t")
	copyFile(t, os.Args[0], binary)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), binary)
	command.Env = append(os.Environ(), roleVariable+"=ask", "SOCKET="+path, "KEY="+base64.StdEncoding.EncodeToString(public))
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := command.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return string(out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPeersAreChecked(t *testing.T) {
	t.Parallel()
	const stranger = 65533
	own := uint32(os.Getuid())
	for name, test := range map[string]struct {
		uids, gids []uint32
		chmod      bool // somebody has opened the socket for all
		wants      []string
		log        string
	}{
		"own user alone":      {wants: []string{"transient false", "permission denied", "let mayfly signer allow uid 65533"}},
		"own user, open file": {chmod: true, wants: []string{"transient true", "without an answer", "lets uid 65533 use it"}, log: "uid=65533"},
		"another user":        {uids: []uint32{own, 4711}, wants: []string{"transient true", "without an answer"}, log: "not allowed was turned away"},
		"the user":            {uids: []uint32{own, stranger}, wants: []string{"signed"}},
		"its group":           {gids: []uint32{stranger}, wants: []string{"signed"}},
		"another group":       {gids: []uint32{4711}, wants: []string{"without an answer"}, log: "gid=65533"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, path := newKey(t), newPath(t)
			var asked atomic.Int32
			sign := signWith(t, key)
			server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: test.uids, AllowGIDs: test.gids, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
				asked.Add(1)
				return sign(ctx, id, message)
			}})
			if test.chmod {
				if err := os.Chmod(path, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got := askAs(t, stranger, path, spkiOf(t, key))
			for _, want := range test.wants {
				if !strings.Contains(got, want) {
					t.Errorf("the other user got %q, want %q", got, want)
				}
			}
			if test.log != "" {
				server.log.await(t, test.log)
			}
			if signed := got == "signed\n"; signed != (asked.Load() == 1) {
				t.Errorf("the signer was asked %d times", asked.Load())
			}
		})
	}
}

// Root is nobody special: only who is named.
func TestOwnUserIsRefusedWhereOthersAreNamed(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: []uint32{4711}, Sign: signWith(t, key)})
	_, err := open(t, path, key).Sign(t.Context(), []byte("message"))
	holds(t, err, "without an answer")
	if !signer.IsTransient(err) {
		t.Errorf("it is permanent: %v", err)
	}
	server.log.await(t, "not allowed was turned away")
}

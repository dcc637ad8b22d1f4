// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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

// roleVariable makes the test binary act as another process.
const roleVariable = "MAYFLY_SOCKET_TEST_ROLE"

// play runs the role of the other process.
func play(role string) int {
	var err error
	switch role {
	case "ask":
		err = ask()
	case "listen":
		err = listen()
	default:
		err = fmt.Errorf("there is no role %q", role)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// ask requests a signature as any key does.
func ask() error {
	der, err := base64.StdEncoding.DecodeString(os.Getenv("KEY"))
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(der)
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

// listen listens and sends nothing until its input ends.
func listen() error {
	path := os.Getenv("SOCKET")
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, l.Close())
}

// playAs returns the command that plays role as the user uid.
func playAs(t *testing.T, uid uint32, role, path string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	// The other user may be unable to reach the folder of the test binary.
	binary := filepath.Join(filepath.Dir(path), "t")
	copyFile(t, os.Args[0], binary)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), binary)
	command.Env = append(os.Environ(), roleVariable+"="+role, "SOCKET="+path)
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return command
}

// askAs requests a signature as the user uid, and returns the output.
func askAs(t *testing.T, uid uint32, path string, key *ecdsa.PrivateKey) string {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	command := playAs(t, uid, "ask", path)
	command.Env = append(command.Env, "KEY="+base64.StdEncoding.EncodeToString(public))
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
		// Otherwise a child of another test would keep the file open for writing until its exec,
		// and the exec of the copy would fail (ETXTBSY).
		syscall.ForkLock.RLock()
		err = os.WriteFile(to, content, 0o755)
		syscall.ForkLock.RUnlock()
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
		uids  []uint32
		chmod bool // the socket was opened for all users
		wants []string
		log   string
	}{
		"own user alone":      {wants: []string{"transient false", "permission denied", "uid 65533"}},
		"own user, open file": {chmod: true, wants: []string{"transient true", "uid 65533", "--allow-user"}, log: "uid=65533"},
		"another user":        {uids: []uint32{own, 4711}, wants: []string{"transient true", "uid 65533"}, log: "its user is not allowed"},
		"the user":            {uids: []uint32{own, stranger}, wants: []string{"signed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, path := newKey(t), newPath(t)
			var asked atomic.Int32
			sign := signWith(t, key)
			server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: test.uids, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
				asked.Add(1)
				return sign(ctx, id, message)
			}})
			if test.chmod {
				if err := os.Chmod(path, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got := askAs(t, stranger, path, key)
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

// Root is not special: only the named users are allowed. Their connections do not fill the log.
func TestOtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	key, path, began := newKey(t), newPath(t), time.Now()
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: []uint32{4711}, Refused: refused.add, Sign: signWith(t, key)})
	for range 100 {
		if n, err := dial(t, path).Read(make([]byte, 1)); n > 0 || err == nil {
			t.Fatalf("read %d octets, error %v", n, err)
		}
	}
	refused.check(t, map[socket.Refusal]int{socket.RefusedConnection: 100})
	if _, err := open(t, path, key).Sign(t.Context(), []byte("message")); !signer.IsTransient(err) {
		t.Errorf("error %v", err)
	}
	if n, most := server.log.count("its user is not allowed"), 1+int(time.Since(began)/time.Second); n < 1 || n > most {
		t.Errorf("there are %d lines, want at most %d", n, most)
	}
}

// A process that created the socket before the signer, in a folder that allows it, gets no request.
func TestListenersAreChecked(t *testing.T) {
	t.Parallel()
	const stranger = 65533
	for name, test := range map[string]struct {
		owner   int // of the folder
		refused bool
	}{
		"in a folder of root's": {0, true},
		"in one of its own":     {stranger, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			command := playAs(t, stranger, "listen", path)
			chown(t, filepath.Dir(path), test.owner)
			mkdir(t, filepath.Dir(path), 0o777|fs.ModeSticky)
			input, err1 := command.StdinPipe()
			output, err2 := command.StdoutPipe()
			if err := errors.Join(err1, err2, command.Start()); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = input.Close()
				if err := command.Wait(); err != nil {
					t.Error(err)
				}
			}()
			if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
				t.Fatalf("the other process says %q (%v)", line, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := open(t, path, newKey(t)).Sign(ctx, []byte("message")) // the listener does not answer
			if refused := err != nil && strings.Contains(err.Error(), "uid 65533 listens there"); refused != test.refused {
				t.Errorf("error %v", err)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// Two networks of the range for tests of network devices (RFC 2544): one for clients and issuers, one for the log.
const (
	outerClients, innerClients = "198.18.0.1", "198.18.0.2"
	outerLog, innerLog         = "198.18.0.5", "198.18.0.6"
)

// TestNetworkNamespace runs the server in a network namespace, and cuts its link to the only log: packets
// are lost, and no side sees an error.
func TestNetworkNamespace(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip("make chaos runs this test; TestNetwork loses data without a namespace")
	}
	n := newNamespace(t, []string{"--net"}, "ip link set lo up", "")
	connect(t, n, "a", outerClients, innerClients)
	link := connect(t, n, "b", outerLog, innerLog)

	w := newWorld(t, 0)
	w.inside = n.enter
	log := w.newLog(outerLog + ":0")
	w.rewrite("mayfly.yaml", "  logs:\n", fmt.Sprintf("  logs:\n    - {url: %q, public_key: log-1.pub}\n", log.url))
	url := serveHandler(t, outerClients+":0", &w.issuer, func(url string) {
		w.flaky = must(provider.New(provider.Config{IssuerURL: url, Algorithm: "ES256"}))(t)
		w.issuer.use(w.flaky)
	})
	w.Provider = w.flaky // no other can be reached
	w.write("issuers.yaml", fmt.Sprintf("oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", url))
	w.rewrite("mayfly.yaml", "allow_loopback: true", fmt.Sprintf("allow_loopback: true, insecure_hosts: [%s]", outerClients))
	for _, address := range []*string{&w.http, &w.grpc, &w.ops} {
		_, port, _ := strings.Cut(*address, ":")
		inner := innerClients + ":" + port
		w.rewrite("mayfly.yaml", *address, inner)
		*address = inner
	}
	w.targets = []string{"http://" + w.http, "grpc://" + w.grpc}
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	w.line("link to the only log is down (network namespace)")
	w.become(func(s *state) { s.logs = 0 })
	ip(t, "link", "set", link, "down")
	w.refused("CT_UNAVAILABLE")
	w.recover(theForm().bound, func(s *state) { s.logs = 1 }, func() { ip(t, "link", "set", link, "up") })
	w.steady()
	w.judge(nil)
}

// connect creates a link into the namespace, and returns the name of its outer end. Both ends disappear with the
// namespace.
func connect(t *testing.T, n namespace, name, outer, inner string) (link string) {
	t.Helper()
	link = fmt.Sprintf("mf%d%s", os.Getpid(), name)
	if out, err := exec.Command("ip", "link", "add", link, "type", "veth", "peer", "name", name, "netns", fmt.Sprint(n.holder)).CombinedOutput(); err != nil {
		t.Skipf("a link into a network namespace is not permitted: %s", out)
	}
	ip(t, "addr", "add", outer+"/30", "dev", link)
	ip(t, "link", "set", link, "up")
	for _, args := range [][]string{{"addr", "add", inner + "/30", "dev", name}, {"link", "set", "dev", name, "up"}} {
		if out, err := n.enter(exec.Command("ip", args...)).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return link
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"net"
	"sync"
	"testing"
	"time"
)

// relay is a network in front of a server, which can lose what is sent.
type relay struct {
	address string

	mu     sync.Mutex    // guards the fields below
	lost   chan struct{} // nil, or closed when the network carries data again
	answer func()        // called before the server's data is carried
}

// newRelay carries each connection to the first address that accepts it, until the test ends.
func newRelay(t testing.TB, to func() []string) *relay {
	t.Helper()
	l := must(net.Listen("tcp", host+":0"))(t)
	r := &relay{address: l.Addr().String()}
	var running sync.WaitGroup
	open := make(chan net.Conn, 1<<12)
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			var far net.Conn
			for _, address := range to() {
				if far, err = net.DialTimeout("tcp", address, 2*time.Second); err == nil {
					break
				}
			}
			if err != nil {
				_ = near.Close()
				continue
			}
			open <- near
			open <- far
			running.Go(func() { r.carry(near, far, false) })
			running.Go(func() { r.carry(far, near, true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.restore()
		for len(open) > 0 {
			_ = (<-open).Close()
		}
		running.Wait()
	})
	return r
}

func (r *relay) carry(from, to net.Conn, answers bool) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		r.mu.Lock()
		lost, answer := r.lost, r.answer
		r.mu.Unlock()
		if lost != nil {
			<-lost // the bytes are lost, and with them the connection
			return
		}
		if answers && n > 0 && answer != nil {
			answer()
		}
		if _, errWrite := to.Write(buffer[:n]); err != nil || errWrite != nil {
			return
		}
	}
}

// lose makes the network carry nothing, without an error at either side, until restore.
func (r *relay) lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = make(chan struct{})
}

func (r *relay) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != nil {
		close(r.lost)
		r.lost = nil
	}
}

// answers makes the relay call f before it carries data of the server; nil for nothing.
func (r *relay) answers(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// TestNetwork loses the network to one of two logs, and then to both.
func TestNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	var relays []*relay
	for _, l := range w.logs {
		r := newRelay(t, only(l.url[len("http://"):]))
		w.rewrite("mayfly.yaml", l.url, "http://"+r.address)
		relays = append(relays, r)
	}
	w.start()
	w.line("no fault")
	w.load()
	w.steady()
	w.line("network to one of two logs is lost")
	relays[0].lose()
	w.steady()
	w.line("network to every log is lost")
	w.become(func(s *state) { s.logs = 0 })
	relays[1].lose()
	w.refused("CT_UNAVAILABLE")
	w.recover(theForm().bound, func(s *state) { s.logs = 1 }, relays[1].restore)
	w.steady()
	relays[0].restore()
	w.steady()
	w.judge(nil)
}

func only(address string) func() []string { return func() []string { return []string{address} } }

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is places with connections that are pipes, for tests of which one loses its place.
type crowd struct {
	*connections
	closed []string // names of connections, in the order in which they lost their place
	log    logBuffer
}

// pipe is a connection of a crowd.
type pipe struct {
	net.Conn
	name, address string
	crowd         *crowd
}

func (p *pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(p.address)} }

func (p *pipe) Close() error {
	p.crowd.closed = append(p.crowd.closed, p.name)
	return p.Conn.Close()
}

func newCrowd(limit, descriptors int) *crowd {
	c := &crowd{}
	c.connections = newConnections(limit, descriptors, slog.New(slog.NewTextHandler(&c.log, nil)))
	return c
}

func (c *crowd) open(name, address string) *conn { return c.openAs(name, address, -1) }

// openAs opens a connection with this file descriptor.
func (c *crowd) openAs(name, address string, descriptor int) *conn {
	near, _ := net.Pipe()
	it := newConn(&pipe{near, name, address, c}, c.connections)
	c.enter(context.Background(), it, descriptor)
	time.Sleep(time.Microsecond) // in the bubble's time, so that no two are opened at once
	return it
}

// request answers a request on a connection, which makes it idle.
func (c *crowd) request(it *conn) {
	it.begin(false)
	it.count(-1, 0)
	time.Sleep(time.Microsecond) // nor become idle at once
}

// TestPlacesAreGivenUpInOrder fills the places with connections of each kind, and opens others
// until all connections that may be closed are closed.
func TestPlacesAreGivenUpInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(9, 0)
		working := c.open("working", "192.0.2.9")
		working.begin(false)
		c.request(c.open("long idle", "192.0.2.1"))
		time.Sleep(time.Second)
		c.request(c.open("long idle of the noisy", "192.0.2.2"))
		time.Sleep(time.Second)
		c.request(c.open("newer of the noisy", "192.0.2.2"))
		time.Sleep(10 * time.Second)
		c.open("no request", "192.0.2.3")
		time.Sleep(2 * time.Second)
		c.open("newer without request", "192.0.2.3")
		c.open("no request, of another", "192.0.2.4")
		time.Sleep(2 * time.Second)
		c.request(c.open("just idle of the noisy", "192.0.2.2"))
		c.request(c.open("just idle", "192.0.2.5"))
		for i := range 8 {
			it := c.open(fmt.Sprint("new ", i), "192.0.2.6")
			it.begin(false)
		}
		want := []string{
			"no request", "newer without request", "no request, of another",
			"long idle of the noisy", "newer of the noisy", "long idle",
			"just idle of the noisy", "just idle",
		}
		if got := strings.Join(c.closed, "; "); got != strings.Join(want, "; ") {
			t.Errorf("closed %s,\nwant   %s", got, strings.Join(want, "; "))
		}
		entered := make(chan struct{})
		go func() { c.open("last", "192.0.2.7"); close(entered) }()
		synctest.Wait()
		select {
		case <-entered:
			t.Error("a connection entered while all others have a request under way")
		default:
		}
		working.count(-1, 0)
		<-entered
		if got := c.closed[len(c.closed)-1]; got != "working" {
			t.Errorf("closed %s", got)
		}
	})
}

// TestFloodLeavesNewcomersTime floods the places from the address of an honest client. That client
// sends its request 200 ms after it connected.
func TestFloodLeavesNewcomersTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(20, 0)
		flooding := make(chan struct{})
		go func() {
			defer close(flooding)
			for i := range 1000 {
				c.open(fmt.Sprint("flood ", i), "192.0.2.1")
			}
		}()
		for i := range 20 {
			start := time.Now()
			it := c.open(fmt.Sprint("honest ", i), "192.0.2.1")
			waited := time.Since(start)
			it.received.Store(true) // the beginning of a handshake
			time.Sleep(200 * time.Millisecond)
			if !it.begin(false) || waited > 2*sparedFor {
				t.Fatalf("newcomer %d waited %v and was then closed %t", i, waited, it.closing)
			}
			it.count(-1, 0)
		}
		<-flooding
		if lines := strings.Count(c.log.String(), "\n"); lines == 0 || lines > 2 {
			t.Errorf("%d lines in the log, want one for each minute", lines)
		}
	})
}

// TestChurnLeavesRoomForNewcomers uses each connection of one address every second, so that none is
// ever idle for long, and opens others meanwhile.
func TestChurnLeavesRoomForNewcomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(40, 0)
		for i := range 40 {
			c.request(c.open(fmt.Sprint("churn ", i), "192.0.2.1"))
		}
		start := time.Now()
		for i := range 10 {
			c.open(fmt.Sprint("flood ", i), "192.0.2.1")
			c.request(c.open(fmt.Sprint("honest ", i), "192.0.2.2"))
		}
		if waited := time.Since(start); waited > arrivingFor+time.Millisecond {
			t.Errorf("20 newcomers waited %v", waited)
		}
		for _, name := range c.closed {
			if strings.HasPrefix(name, "honest") {
				t.Errorf("closed %s", name)
			}
		}
	})
}

// TestManyAddressesTakeNothingFromOne has an attacker with an address for each connection, and
// clients behind one address.
func TestManyAddressesTakeNothingFromOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(64, 0)
		for i := range 60 {
			c.request(c.open("attacker", fmt.Sprintf("198.51.100.%d", i)))
		}
		time.Sleep(time.Second)
		for range 4 {
			c.request(c.open("client", "192.0.2.1"))
		}
		for range 2 { // while all are new, and when all are ripe
			for i := range 20 {
				c.request(c.open("attacker", fmt.Sprintf("203.0.113.%d", i)))
			}
			time.Sleep(10 * time.Second)
		}
		if len(c.closed) != 40 || slices.Contains(c.closed, "client") {
			t.Errorf("closed %v", c.closed)
		}
	})
}

// TestDrainDismissesStalledClients: a drain closes connections that have sent nothing for freshFor at once,
// and spares those whose first request may be on its way. After idleFor it closes those without a complete request and those that do not read an answer,
// and no others.
func TestDrainDismissesStalledClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(100, 0)
		c.open("silent", "192.0.2.1")
		time.Sleep(freshFor)
		fresh := c.open("new", "192.0.2.1")
		c.open("slow", "192.0.2.1").received.Store(true)
		unread := c.open("unread", "192.0.2.1")
		unread.begin(true)
		unread.count(-1, 1)
		c.open("busy", "192.0.2.1").begin(true)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.dismissStalled(ctx)
		synctest.Wait()
		if got := strings.Join(c.closed, " "); got != "silent" {
			t.Errorf("at once it closed %q", got)
		}
		fresh.begin(false)
		time.Sleep(4500 * time.Millisecond)
		late := c.open("late", "192.0.2.1")
		late.received.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		slices.Sort(c.closed)
		if got := strings.Join(c.closed, " "); got != "silent slow unread" || late.closing {
			t.Errorf("closed %q", got)
		}
		if c.log.String() != "" {
			t.Errorf("logged %s", &c.log)
		}
	})
}

// TestReserveIsGivenBack opens a connection with a descriptor that shows that the reserve is in
// use.
func TestReserveIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(100, 50)
		for i := range 10 {
			c.request(c.open(fmt.Sprint(i), "192.0.2.1"))
		}
		c.openAs("over", "192.0.2.1", 50)
		if got := strings.Join(c.closed, " "); got != "0 1" {
			t.Errorf("closed %s, want two for one", got)
		}
		alone := newCrowd(100, 50)
		alone.openAs("over", "192.0.2.1", 51) // there is nothing to give back
	})
}

// TestPlacesKeepCount: the counters of client addresses are those of open connections.
func TestPlacesKeepCount(t *testing.T) {
	t.Parallel()
	c := newCrowd(1000, 0)
	random := rand.New(rand.NewPCG(1, 2))
	var all []*conn
	for range 2000 {
		if i := random.IntN(400); i >= len(all) {
			all = append(all, c.open("", fmt.Sprintf("2001:db8:0:%x::%x", random.IntN(7), random.IntN(100))))
		} else {
			_ = all[i].Close()
			_ = all[i].Close() // as net/http does
			all = slices.Delete(all, i, i+1)
		}
		want := make(map[netip.Prefix]int)
		for _, it := range all {
			want[it.client.address]++
		}
		if len(c.all) != len(all) || len(c.holders) != len(want) {
			t.Fatalf("%d places and %d addresses, want %d and %d", len(c.all), len(c.holders), len(all), len(want))
		}
		for address, n := range want {
			if c.holders[address].open != n {
				t.Fatalf("%s has %d connections, want %d", address, c.holders[address].open, n)
			}
		}
	}
}

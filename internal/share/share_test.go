// SPDX-License-Identifier: Apache-2.0

package share

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// clientNumber returns an IPv4 address, each in another /24.
func clientNumber(i int) netip.Addr {
	var octets [4]byte
	binary.BigEndian.PutUint32(octets[:], 1<<24+uint32(i)<<8+7)
	return netip.AddrFrom4(octets)
}

// TestNetworks: an IPv6 client is its /64, and IPv4-mapped IPv6 is IPv4.
func TestNetworks(t *testing.T) {
	t.Parallel()
	for client, want := range map[string][2]string{
		"192.0.2.1": {"192.0.2.1/32", "192.0.2.0/24"}, "::ffff:192.0.2.1": {"192.0.2.1/32", "192.0.2.0/24"},
		"2001:db8::2:0:0:1": {"2001:db8::/64", "2001:db8::/48"}, "fe80::1%eth0": {"fe80::/64", "fe80::/48"},
		"": {"0.0.0.0/32", "0.0.0.0/24"},
	} {
		addr, _ := netip.ParseAddr(client) // "" is the zero address
		if own, wide := Networks(addr); own.String() != want[0] || wide.String() != want[1] {
			t.Errorf("%s counts as %s in %s, want %s", client, own, wide, want)
		}
	}
}

// TestPlacesAreShared: an address gets a place while it holds fewer than are free, and what is kept is
// bounded by the places.
func TestPlacesAreShared(t *testing.T) {
	t.Parallel()
	now := time.Now()
	hog := func(p *Places, client netip.Addr) (n int) {
		for p.Take(client, now) {
			n++
		}
		return n
	}
	for _, places := range []int{2, 16, 32, 100, 128} {
		p := New(places, 0)
		if n := hog(p, clientNumber(0)); n != places/2 {
			t.Errorf("one address holds %d of %d places", n, places)
		}
		for i := 1; hog(p, clientNumber(i)) > 0; i++ {
			if i >= places {
				t.Fatal("more places were given than there are")
			}
		}
		if p.taken != places || len(p.held) > 2*places {
			t.Errorf("%d of %d places are taken, with %d counters", p.taken, places, len(p.held))
		}
	}
	// Greedy addresses one after the other.
	var greedy []int
	p := New(32, 0)
	for i := range 7 {
		greedy = append(greedy, hog(p, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})))
	}
	if !slices.Equal(greedy, []int{16, 8, 2, 2, 1, 1, 0}) {
		t.Errorf("seven addresses of one network hold %d of 32 places", greedy)
	}
	if n := hog(p, clientNumber(0)); n != 1 {
		t.Errorf("an address of another network gets %d places", n)
	}
	wide, last := New(100, 0), 0
	for i := range 1000 {
		if n := hog(wide, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(i >> 8), byte(i)})); n > 0 {
			last = i
		}
	}
	if free := wide.places - wide.taken; free != 6 || last < 5 {
		t.Errorf("the networks of one /48 leave %d of 100 places, and %d have some", free, last+1)
	}
	// Once places are given back and taken again, 20 greedy addresses have four of 100 each, and so
	// has another.
	turning := New(100, 5*time.Second)
	for range 20_000 {
		now = now.Add(time.Millisecond)
		turning.Take(netip.AddrFrom4([4]byte{192, 0, 2, byte(now.UnixMilli() % 20)}), now)
	}
	for i := range 3 {
		if !turning.Take(netip.AddrFrom4([4]byte{192, 0, 2, 99}), now) {
			t.Errorf("another address gets %d places while 20 are greedy", i)
		}
	}
	timed := New(10, time.Minute)
	if n := hog(timed, clientNumber(0)); n != 5 {
		t.Fatalf("one address holds %d of 10 places", n)
	}
	if _, _, next := timed.State(clientNumber(0), now.Add(time.Second)); next != 59*time.Second {
		t.Errorf("the next place is free in %s", next)
	}
	now = now.Add(time.Minute)
	if n := hog(timed, clientNumber(0)); n != 5 {
		t.Errorf("a minute later it gets %d places", n)
	}
}

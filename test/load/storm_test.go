// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// patience is how late a request of a storm may begin. One that finds no free connection for longer is
// given up, as a user would.
const patience = time.Second

// storm is a load on a server that may refuse it.
type storm struct {
	Address  string
	Requests string // as in job
	Clients  int    // connections, each with one request at a time
	// Rate is the number of requests that begin in a second, whatever the server answers (open loop). 0: each
	// client sends its next request when it has the answer, after Retry-After if it was refused.
	Rate     float64
	Duration time.Duration
}

// weather is the result of a storm.
type weather struct {
	Accepted, Refused int
	Failed            int // no answer, or an answer that is neither
	GivenUp           int
	Failure           string
	Elapsed           time.Duration
	// Latency is that of accepted requests from when they were due, in microseconds.
	Latency *hdrhistogram.Snapshot
}

func (w weather) rate() float64 { return float64(w.Accepted) / w.Elapsed.Seconds() }

func playStorm(in *json.Decoder, out *json.Encoder) error {
	for {
		var s storm
		if err := in.Decode(&s); err != nil {
			return err
		}
		w, err := s.run()
		if err != nil {
			return err
		}
		if err := out.Encode(w); err != nil {
			return err
		}
	}
}

func (s storm) run() (w weather, err error) {
	text, err := os.ReadFile(s.Requests)
	var requests []prepared
	if err == nil {
		err = json.Unmarshal(text, &requests)
	}
	texts := make([][]byte, len(requests))
	for i := range texts {
		if err == nil {
			texts[i], err = httpRequest(restV2, s.Address, requests[i])
		}
	}
	if err != nil {
		return w, err
	}
	var mu sync.Mutex // guards w and all
	var running sync.WaitGroup
	var next atomic.Int64
	all, begin := newHistogram(), time.Now()
	for range s.Clients {
		running.Go(func() {
			c := &stormClient{address: s.Address, latency: newHistogram()}
			defer c.close()
			for {
				n := int(next.Add(1) - 1)
				due := time.Now()
				if s.Rate > 0 {
					due = begin.Add(time.Duration(float64(n) / s.Rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if due.Sub(begin) >= s.Duration {
					break
				}
				if time.Since(due) > patience {
					c.GivenUp++
					continue
				}
				again := c.send(texts[n%len(texts)], due)
				if s.Rate == 0 && again > 0 && time.Since(begin)+again < s.Duration {
					time.Sleep(again)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			w.Accepted, w.Refused, w.Failed, w.GivenUp = w.Accepted+c.Accepted, w.Refused+c.Refused, w.Failed+c.Failed, w.GivenUp+c.GivenUp
			if c.Failure != "" {
				w.Failure = c.Failure
			}
			all.Merge(c.latency)
		})
	}
	running.Wait()
	w.Elapsed, w.Latency = time.Since(begin), all.Export()
	return w, nil
}

// stormClient is a connection that is opened again when it fails.
type stormClient struct {
	weather
	address string
	conn    net.Conn
	reader  *bufio.Reader
	latency *hdrhistogram.Histogram
}

func (c *stormClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// send sends a request and counts its answer. It returns Retry-After if the answer has it.
func (c *stormClient) send(request []byte, due time.Time) (again time.Duration) {
	status, again, err := c.exchange(request)
	switch {
	case err != nil:
		c.Failed, c.Failure = c.Failed+1, err.Error()
		c.close()
	case status == "200":
		c.Accepted++
		_ = c.latency.RecordValue(max(1, time.Since(due).Microseconds()))
	case status == "429":
		c.Refused++
	default:
		c.Failed, c.Failure = c.Failed+1, status
	}
	return again
}

// exchange reads no more of an answer than it needs: the generator must cost less than a refusal.
func (c *stormClient) exchange(request []byte) (status string, again time.Duration, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, answerLimit); err != nil {
			c.conn = nil
			return "", 0, err
		}
		c.reader = bufio.NewReaderSize(c.conn, 8<<10)
	}
	_ = c.conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := c.conn.Write(request); err != nil {
		return "", 0, err
	}
	line, err := c.reader.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return "", 0, errors.Join(err, errors.New("no answer"))
	}
	status = string(line[9:12])
	for length := 0; ; {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return "", 0, err
		}
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		switch string(name) {
		case "Content-Length":
			length, _ = strconv.Atoi(string(value))
		case "Retry-After":
			seconds, _ := strconv.Atoi(string(value))
			again = time.Duration(seconds) * time.Second
		case "":
			_, err = io.CopyN(io.Discard, c.reader, int64(length))
			return status, again, err
		}
	}
}

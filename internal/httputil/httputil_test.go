// SPDX-License-Identifier: Apache-2.0

package httputil_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "120": 2 * time.Minute, "-1": 0, "1.5": 0, "soon": 0, "9999999999999999999": (1<<31 - 1) * time.Second,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		if got := httputil.RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "3", "-1", "99999999999", "Thu, 05 Nov 2026 12:00:03 GMT", "Thu, 05 Nov 9999 12:00:03 GMT"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if d := httputil.RetryAfter(http.Header{"Retry-After": {value}}, now); d < 0 {
			t.Errorf("%q is %s", value, d)
		}
	})
}

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "localhost.": false, "localhost.example": false, "128.0.0.1": false, "127.1": false, "0.0.0.0": false, "::": false, "[::1]": false,
	} {
		if got := httputil.IsLoopback(host); got != want {
			t.Errorf("%q: got %v", host, got)
		}
	}
}

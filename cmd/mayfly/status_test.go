// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A state that cannot be read says nothing about the server: the exit code is 3, never that of a server
// that is not ready.
func TestStatusOfAnUnreadableState(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"another version": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"version": 2, "status": "SERVING"}`) },
		"no state":        func(w http.ResponseWriter) { _, _ = io.WriteString(w, `<html>`) },
		"an error":        func(w http.ResponseWriter) { http.Error(w, "down", http.StatusBadGateway) },
		"too much":        func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 5<<20)) },
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		if code, out, errOut := command(t, "", "status", "--url", s.URL); code != 3 || out != "" || errOut == "" {
			t.Errorf("%s: %d, %q, %q", name, code, out, errOut)
		}
		s.Close()
	}
}

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Mount is a handler beside the APIs on the HTTP listener, such as an embedded log. Its
// requests are admitted, bounded in time, counted and logged as those of the APIs are; the
// handler bounds the bodies that it reads.
type Mount struct {
	// Path is where the handler is: a path that ends in a slash has everything below it,
	// which the handler gets without that prefix; any other path is exact.
	Path string
	// Name is the mount's value of the label "api" in metrics and logs, a short constant.
	Name string
	// Handler serves it.
	Handler http.Handler
}

// checkMounts tells every mount that cannot be.
func checkMounts(mounts []Mount) error {
	var errs []error
	seen := make(map[string]bool)
	for _, m := range mounts {
		switch {
		case !strings.HasPrefix(m.Path, "/") || m.Path == "/" || strings.HasPrefix(m.Path, "/api/"):
			errs = append(errs, fmt.Errorf("server: nothing can be mounted at %q", m.Path))
		case m.Handler == nil || m.Name == "":
			errs = append(errs, fmt.Errorf("server: the mount at %q lacks a name or a handler", m.Path))
		case seen[m.Path]:
			errs = append(errs, fmt.Errorf("server: two handlers are mounted at %q", m.Path))
		}
		seen[m.Path] = true
	}
	return errors.Join(errs...)
}

// mountOf returns the mount whose path is path, or else the longest one that it is below.
func (s *Server) mountOf(path string) (found *Mount) {
	for i := range s.mounts {
		m := &s.mounts[i]
		below := strings.HasSuffix(m.Path, "/") && strings.HasPrefix(path, m.Path)
		if (path == m.Path || below) && (found == nil || len(m.Path) > len(found.Path)) {
			found = m
		}
	}
	return found
}

// serveMount answers a request for what is mounted at its path.
func (s *Server) serveMount(w http.ResponseWriter, r *http.Request, m *Mount, path, id string) {
	handler := m.Handler
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = path, ""
	if prefix, ok := strings.CutSuffix(m.Path, "/"); ok {
		handler = http.StripPrefix(prefix, handler)
	}
	a := &answer{ResponseWriter: w, requestID: id, path: m.Path}
	c := call{api: m.Name, method: methodUnknown, requestID: id, peer: r.RemoteAddr, slots: s.mountSlots, answered: a.reason}
	refused := s.run(r.Context(), c, func(ctx context.Context) error {
		handler.ServeHTTP(a, r.WithContext(ctx))
		return nil
	})
	if refused != nil && !a.wrote {
		writeRefusal(w, refused, id)
	}
}

// reason is what the access log says of an answer that a mount gave by itself: OK, or its
// status, as in HTTP_403, which also keeps the metrics' labels few.
func (a *answer) reason() string {
	if a.status < http.StatusBadRequest || a.status > 599 {
		return reasonOK
	}
	return fmt.Sprintf("HTTP_%d", a.status)
}

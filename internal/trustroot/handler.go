// SPDX-License-Identifier: Apache-2.0

package trustroot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

// Handler serves what render returns, with an ETag for conditional requests. It passes an
// error of render to failed and hides it from the client.
func Handler(render func() ([]byte, error), failed func(*http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		document, err := render()
		if err != nil {
			failed(r, err)
			http.Error(w, "the document cannot be rendered", http.StatusInternalServerError)
			return
		}
		sum := sha256.Sum256(document)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(document))
	})
}

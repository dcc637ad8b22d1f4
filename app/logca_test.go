// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/tls"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
)

// Only the certificates of ca_file verify a log's server. They are read again: a log whose server changes to
// another CA is in use again without a restart, and a broken file changes nothing.
func TestLogUnderPrivateCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited("mayfly.yaml", "level: error", "level: info"))
	var current atomic.Pointer[tls.Certificate]
	certify := func(serial int64) (caPEM string) { // the log's server gets a certificate of its own CA
		dir := t.TempDir()
		writeTLS(t, dir, serial, time.Hour)
		pair := must(tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem"))(t)
		current.Store(&pair)
		return string(must(os.ReadFile(dir + "/cert.pem"))(t))
	}
	log := httptest.NewUnstartedServer(w.Log)
	log.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*current.Load()}}, nil
	}}
	log.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of refused handshakes
	written("log-ca.pem", certify(1))(t, w)
	log.StartTLS()
	t.Cleanup(log.Close)
	plain := remoteEntry(w)
	edited("mayfly.yaml", plain, `{url: "`+log.URL+`", public_key: log.pub, ca_file: log-ca.pem}`)(t, w)
	if report := check(t, w, func(o *app.CheckOptions) { o.Online = true }); len(report.Mistakes) > 0 || report.Logs != 1 {
		t.Errorf("config check --online: %d logs, %v", report.Logs, report.Mistakes)
	}
	r := start(t, w)
	wantReason(t, r, nil, "")

	next := certify(2)
	log.CloseClientConnections()
	wantReason(t, r, nil, "CT_UNAVAILABLE")
	written("log-ca.pem", "broken")(t, w)
	await(t, "the refusal of the broken file", func() bool { return strings.Contains(r.log.String(), "log-ca.pem: it holds no PEM certificate") })
	written("log-ca.pem", next)(t, w)
	await(t, "the new CA", func() bool { _, err := r.request(t.Context(), nil); return err == nil })
}

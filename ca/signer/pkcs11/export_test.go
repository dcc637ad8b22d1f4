//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

// Openings returns how many openings of keys are under way.
func (m *Modules) Openings() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, module := range m.loaded {
		n += len(module.openings)
	}
	return n
}

// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		s    unix.Statfs_t
		want filesystem
	}{
		{"ext4", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 3}, filesystem{free: 12288}},
		{"a reserve in use", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: ^uint64(0)}, filesystem{}},
		{"read-only", unix.Statfs_t{Type: unix.XFS_SUPER_MAGIC, Flags: unix.ST_RDONLY}, filesystem{readOnly: true}},
		{"NFS", unix.Statfs_t{Type: unix.NFS_SUPER_MAGIC}, filesystem{kind: "NFS", remote: true}},
		{"SMB", unix.Statfs_t{Type: unix.CIFS_SUPER_MAGIC}, filesystem{kind: "SMB", remote: true}},
		{"memory", unix.Statfs_t{Type: unix.TMPFS_MAGIC}, filesystem{kind: "memory (tmpfs)", volatile: true}},
	} {
		if got := classify(test.s); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

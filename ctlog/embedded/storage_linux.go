// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// remoteKinds are filesystems that a log refuses.
var remoteKinds = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CIFS_SUPER_MAGIC: "SMB",
	unix.AFS_SUPER_MAGIC:  "AFS",
	unix.AFS_FS_MAGIC:     "AFS",
	unix.CODA_SUPER_MAGIC: "Coda",
	unix.V9FS_MAGIC:       "9P",
	unix.CEPH_SUPER_MAGIC: "CephFS",
}

// statFilesystem describes the filesystem that holds path.
func statFilesystem(path string) (filesystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return filesystem{}, fmt.Errorf("checking the filesystem of %s: %w", path, err)
	}
	return classify(s), nil
}

func classify(s unix.Statfs_t) filesystem {
	f := filesystem{remote: remoteKinds[int64(s.Type)], readOnly: s.Flags&unix.ST_RDONLY != 0}
	f.volatile = s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC
	// Bavail may be "negative" where root uses the reserve; unsigned, it would look huge.
	if available := int64(s.Bavail); available > 0 {
		f.free = uint64(available) * uint64(s.Bsize)
	}
	return f
}

// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// remoteKinds are filesystems that a log refuses.
var remoteKinds = map[int64]string{
	unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "SMB",
	unix.AFS_SUPER_MAGIC: "AFS", unix.AFS_FS_MAGIC: "AFS", unix.CODA_SUPER_MAGIC: "Coda", unix.V9FS_MAGIC: "9P", unix.CEPH_SUPER_MAGIC: "CephFS",
}

// statFilesystem returns the free space of the filesystem that holds path. It refuses a filesystem
// that is unsuitable for a log.
func statFilesystem(path string) (free uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("checking the filesystem of %s: %w", path, err)
	}
	return classify(path, s)
}

func classify(path string, s unix.Statfs_t) (free uint64, err error) {
	if kind := remoteKinds[int64(s.Type)]; kind != "" {
		err = &StorageError{path, fmt.Errorf("is on %s, where neither locks nor durable writes can be relied on; a log needs a local disk", kind)}
	} else if s.Flags&unix.ST_RDONLY != 0 {
		err = &StorageError{path, errReadOnly}
	}
	// Bavail may be "negative" where root uses the reserve; unsigned, it would look huge.
	return uint64(max(int64(s.Bavail), 0)) * uint64(s.Bsize), err
}

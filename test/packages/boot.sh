#!/usr/bin/env bash
# Boots systemd in namespaces of its own: boot.sh DIR. DIR/root is a view of this machine's files, and what
# changes in it is in memory. run.sh runs this with unshare.
set -euo pipefail
dir=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$dir"
mkdir -p "$dir"/{changes,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/changes,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mkdir -p sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
fi
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
ip link set lo up
: > etc/machine-id
# Nothing of this machine starts.
rm -rf etc/systemd/system && mkdir etc/systemd/system
ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
mkdir -p tmp/outside
pivot_root . tmp/outside
umount -l /tmp/outside # a chroot instead would forbid PrivateUsers=
mount --make-rshared / # for credentials; systemd itself does so on a machine
export container=other
exec /lib/systemd/systemd --system --log-target=null --show-status=0

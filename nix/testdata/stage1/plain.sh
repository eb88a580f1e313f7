#!/test/busybox sh
# shellcheck shell=dash
# A stage 1 that only mounts a root.
# shellcheck source=nix/testdata/stage1/lib.sh
. /test/lib.sh
prepare
busybox mkdir /mnt-root
busybox mount -t ext4 /dev/vda /mnt-root
for point in proc sys dev run; do busybox mount --move /$point /mnt-root/$point; done
exec /test/busybox switch_root /mnt-root /usr/lib/systemd/systemd

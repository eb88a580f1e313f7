#!/test/busybox sh
# shellcheck shell=dash
# A stage 1 like NixOS' scripted one, as far as overlay-root.sh sees it: busybox'
# shell and mount.
# shellcheck source=nix/testdata/stage1/lib.sh
. /test/lib.sh
prepare
busybox mkdir -p /bin /mnt-root
busybox --install -s /bin
export PATH=/bin

mode=rw
if has read-only; then mode=ro; fi
mount -t ext4 -o "$mode,noatime" /dev/vda /mnt-root
mount -t ext4 /dev/vdb /mnt-root/nix
mount -t ext4 /dev/vdc "/mnt-root/with space"
report "before $(type_of /mnt-root)"
if has busy; then exec 3>/mnt-root/busy; fi
sh /test/overlay-root.sh /mnt-root 50%
report "exit $?"

for point in proc sys dev run; do mount --move /$point /mnt-root/$point; done
exec switch_root /mnt-root /sbin/init

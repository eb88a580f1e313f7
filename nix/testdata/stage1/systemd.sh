#!/test/busybox sh
# shellcheck shell=dash
# Hands over to systemd, which runs the rest of stage 1 by its units.
# shellcheck source=nix/testdata/stage1/lib.sh
. /test/lib.sh
prepare
# systemd mounts these itself.
busybox umount /run /sys /dev /proc
exec /usr/lib/systemd/systemd

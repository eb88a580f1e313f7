#!/test/busybox sh
# shellcheck shell=dash source=/dev/null
# Hands over to systemd, which runs the rest of stage 1 by its units.
. /test/lib.sh
prepare
# systemd mounts these itself.
busybox umount /run /sys /dev /proc
exec /usr/lib/systemd/systemd

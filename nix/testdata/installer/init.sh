#!/test/busybox sh
# shellcheck shell=dash
# A machine that runs ec-install, with the programs of Debian. Nothing else is on it.
# shellcheck source=nix/testdata/stage1/lib.sh
. /test/lib.sh
prepare
busybox ln -s /proc/self/fd /dev/fd
busybox ln -s /proc/self/fd/0 /dev/stdin
export PATH=/test/bin:/usr/bin:/usr/sbin HOME=/root
bash /test/cases.sh
busybox sync
busybox poweroff -f

#!/bin/busybox sh
# shellcheck shell=dash
# The init of the root: says what it finds, leaves something for the next boot,
# and switches the machine off.
/bin/busybox mkdir -p /run/bin
/bin/busybox --install -s /run/bin
export PATH=/run/bin
[ -e /proc/self ] || mount -t proc proc /proc

report() { echo "report: $*" >/dev/console; }

# tries_to_write PATH says whether it could.
tries_to_write() {
  if (echo "by boot $boot" >"$1") 2>/dev/null; then report "wrote $1"; else report "could not write $1"; fi
}

echo boot >>/nix/boots
boot=$(wc -l </nix/boots)
report "boot $boot"
report "root is $(awk '$2 == "/" { type = $3 } END { print type }' /proc/mounts)"
for found in /etc/written /nix/written; do
  if [ -e "$found" ]; then report "found $found"; fi
done

lower=/
if [ -d /.overlay-root/lower ]; then
  lower=/.overlay-root/lower
  report "the device of the lower layer is $(awk '$2 == "/.overlay-root/lower" { print $4 }' /proc/mounts | cut -d, -f1)"
  tries_to_write /.overlay-root/lower/etc/written
fi
tries_to_write /etc/written
tries_to_write /nix/written
tries_to_write "/with space/written"
rm /etc/to-be-removed && report "removed /etc/to-be-removed"
if [ -e /.overlay-root/upper/etc/written ]; then report "the upper layer has etc/written"; fi
if [ -e /run/overlay-root.failed ]; then report "failed: $(cat /run/overlay-root.failed)"; fi

# Every file of the real root, with its content and its metadata.
report "lower $(cd "$lower" && {
  find . -xdev -type f ! -path ./proc/\* -exec sha256sum {} +
  find . -xdev ! -path ./proc/\* -exec stat -c '%n %f %u %g %s %Y %Z' {} +
} | sort | sha256sum | cut -c1-64)"
sync
umount /nix "/with space" 2>/dev/null
poweroff -f

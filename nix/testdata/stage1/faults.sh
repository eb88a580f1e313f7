#!/test/busybox sh
# shellcheck shell=dash
# Runs overlay-root.sh again and again on the same mounts, with its first call of
# mount failing, then its second, and so on until none does; and reports what is
# left each time. Shell and mount are those of one initrd or the other.
# shellcheck source=nix/testdata/stage1/lib.sh
. /test/lib.sh
prepare
if has shared; then busybox mount --make-rshared /; fi # as systemd does
if has util-linux; then
  shell=/usr/bin/bash tools=/usr/bin
else
  busybox mkdir -p /bin
  busybox --install -s /bin
  shell=/bin/sh tools=/bin
fi

busybox mkdir -p /root
# A mount that counts its calls, and refuses one of them.
busybox cat >/run/faulty-mount.sh <<'END'
mount() {
  read -r count </run/count
  echo $((count + 1)) >/run/count
  if [ "$count" = "$FAIL_AT" ]; then
    echo "mount $* fails, as it should" >&2
    return 1
  fi
  command mount "$@"
}
END

# run LABEL runs the script and reports what is left.
run() {
  label=$1
  status=0
  PATH=$tools "$shell" -c '. /run/faulty-mount.sh; . /test/overlay-root.sh' sh /root 16m || status=$?
  writable=no nix=no space=no lower=no
  if busybox touch /root/probe 2>/dev/null && busybox rm /root/probe; then writable=yes; fi
  if [ -e /root/nix/marker ]; then nix=yes; fi
  if [ -e "/root/with space/marker" ]; then space=yes; fi
  if [ -d /root/.overlay-root/lower/etc ]; then lower=yes; fi
  reason=none
  if [ -e /run/overlay-root.failed ]; then reason=$(busybox cat /run/overlay-root.failed); fi
  report "$label: exit=$status root=$(type_of /root) writable=$writable nix=$nix space=$space lower=$lower" \
    "left=$(busybox grep -c ' /run/overlay-root' /proc/self/mountinfo) reason=$reason"
  busybox rm -f /run/overlay-root.failed
}

# tidy unmounts all, so that the disk's file system starts anew.
tidy() {
  while busybox umount -l /root 2>/dev/null; do :; done
  while busybox umount -l /run/overlay-root 2>/dev/null; do :; done
}

fault=0
while :; do
  fault=$((fault + 1))
  busybox mount -t ext4 /dev/vda /root
  busybox mount -t ext4 /dev/vdb /root/nix
  busybox mount -t ext4 /dev/vdc "/root/with space"
  echo 1 >/run/count
  export FAIL_AT=$fault
  run "fault $fault"
  read -r count </run/count
  tidy
  [ "$count" -gt "$fault" ] || break
done

export FAIL_AT=none
busybox mount -t tmpfs tmpfs /root
run tmpfs
tidy
busybox mount -t ext4 /dev/vda /root
busybox mkdir -p /run/u /run/w
busybox mount -t tmpfs tmpfs /run/u
busybox mkdir /run/u/upper /run/u/work
busybox mount -t overlay -o lowerdir=/root,upperdir=/run/u/upper,workdir=/run/u/work overlay /root
run overlay
tidy
run nothing

# A mount below the root that is on its device.
busybox mount -t ext4 /dev/vda /root
busybox mount --bind /root/etc /root/nix
run bind
if busybox touch /root/nix/probe && [ -e /root/.overlay-root/lower/etc/probe ]; then report "what is bound stays writable"; fi
busybox poweroff -f

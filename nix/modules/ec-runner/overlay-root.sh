#!/bin/sh
# Makes a mounted root read-only, with a tmpfs for what is written to it.
#
#   overlay-root.sh ROOT SIZE
#
# ROOT is where stage 1 has mounted the root: /mnt-root in the scripted initrd,
# /sysroot in systemd's. SIZE is the tmpfs' size as mount(8) takes it, such as 50%
# or 2g. Both initrds run this script, so it needs a POSIX shell, mount, umount
# and mkdir only, and these as busybox or util-linux has them.
#
# Afterwards ROOT is an overlay (https://docs.kernel.org/filesystems/overlayfs.html).
# What was mounted below the old root is mounted below the new one, untouched. The
# running system finds the real root at /.overlay-root/lower, read-only, and what
# has been written since it booted at /.overlay-root/upper.
#
# A machine that boots with a writable root is better than one that does not boot:
# whatever goes wrong, ROOT becomes the ordinary root again, the reason stands on
# the console and in /run/overlay-root.failed, and the script exits with 1.
set -u

root=$1
size=$2
name=.overlay-root
work=/run/overlay-root # the tmpfs, until the overlay is in place
failed=/run/overlay-root.failed

say() { printf 'overlay-root: %s\n' "$*"; }

# look_at_root sets what the kernel's table of mounts (proc_pid_mountinfo(5)) says
# of the mount at ROOT, the last of several: its device as major:minor, its type,
# and its file system's options.
look_at_root() {
  device='' type='' options=''
  while read -r _ _ mount_device _ point _ rest; do
    [ "$point" = "$root" ] || continue
    rest=${rest#*- } # after the optional fields
    device=$mount_device type=${rest%% *} options=${rest##* }
  done </proc/self/mountinfo
}

# look_below sets the mounts right below ROOT, one a line and as the table writes
# them, with \040 for a space; and whether one of all that are below ROOT has its
# device, as a btrfs subvolume or a bind mount does.
look_below() {
  below='' device_shared=''
  while read -r _ _ mount_device _ point _; do
    case $point in "$root"/*) ;; *) continue ;; esac
    [ "$mount_device" != "$device" ] || device_shared=yes
    known=''
    for other in $below; do
      case $point/ in "$root$other"/*) known=yes ;; esac
    done
    [ -n "$known" ] || below="$below ${point#"$root"}"
  done </proc/self/mountinfo
}

# move_below FROM TO MOUNT… moves mounts from below one root to the same places
# below another. The mounts that it has moved are in $moved.
move_below() {
  from=$1 to=$2 moved=''
  shift 2
  for mount in "$@"; do
    path=$(printf '%b' "$mount")
    mount --move "$from$path" "$to$path" || return
    moved="$moved $mount"
  done
}

# give_up REASON makes ROOT what it was and ends the script.
give_up() {
  # shellcheck disable=SC2086
  set -- "$1" $moved
  reason=$1
  shift
  move_below "$work/root" "$root" "$@"
  [ -z "$overlaid" ] || umount "$work/root"
  [ -z "$bound" ] || umount "$work/lower"
  [ -z "$read_only" ] || mount -o remount,rw "$root"
  [ -z "$tmpfs" ] || umount "$work"
  say "**************************************************************"
  say "$reason"
  say "The root stays as it is: WRITABLE. What is written to it stays."
  say "**************************************************************"
  printf '%s\n' "$reason" >"$failed"
  exit 1
}

moved='' overlaid='' bound='' read_only='' tmpfs=''

look_at_root
case $type in
  '') give_up "nothing is mounted at $root" ;;
  overlay | tmpfs | ramfs | rootfs)
    say "the root is in memory already ($type); leaving it alone"
    exit 0
    ;;
esac
look_below

# Mounts can only be moved from below a mount that is not shared, and what is
# unmounted below a shared one goes below its peers too. systemd shares all.
mount --make-private "$root" || give_up "cannot make the mount of the root private"
mkdir -p "$work" || give_up "cannot make $work"
mount -t tmpfs -o "mode=0755,size=$size" overlay-root "$work" || give_up "cannot mount a tmpfs of size $size"
tmpfs=yes
mount --make-private "$work" || give_up "cannot make the tmpfs private"
mkdir "$work/lower" "$work/upper" "$work/work" "$work/root" || give_up "cannot write to the tmpfs"

case ,$options, in
  *,ro,*) ;;
  *)
    if [ -n "$device_shared" ]; then
      say "another mount is on the root's device: the device stays writable, the root does not"
    else
      mount -o remount,ro "$root" || give_up "cannot make the root read-only"
      read_only=yes
    fi
    ;;
esac
mount --bind "$root" "$work/lower" || give_up "cannot bind the root"
bound=yes
mount -o remount,bind,ro "$work/lower" || give_up "cannot make the lower layer read-only"
mount -t overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/work" overlay "$work/root" ||
  give_up "cannot mount an overlay: is the kernel module there?"
overlaid=yes
mkdir "$work/root/$name" || give_up "cannot write to the overlay"

# shellcheck disable=SC2086
move_below "$root" "$work/root" $below || give_up "cannot move the mounts below the root"
mount --move "$work/root" "$root" || give_up "cannot put the overlay in the root's place"

# Nothing that goes wrong now is worth losing the read-only root for.
if mount --rbind "$work" "$root/$name"; then
  umount -l "$work"
else
  say "the real root is not to be seen at /$name"
fi
say "the root is read-only; what is written to it goes to a tmpfs of size $size"

# shellcheck shell=dash
# What the scripts of the stage 1 tests share. They run in initrds that have this
# file at /test/lib.sh and a busybox at /test/busybox, whose programs the scripts
# themselves use; the script that is tested uses what is on its own PATH.

busybox() { /test/busybox "$@"; }

# report WORDS… says something to the test, on the serial console.
report() { echo "report: $*"; }

# prepare mounts what every stage 1 has and loads the kernel's modules.
prepare() {
  busybox mkdir -p /proc /sys /dev /run /etc /tmp
  busybox mount -t proc proc /proc
  busybox mount -t sysfs sysfs /sys
  busybox mount -t devtmpfs devtmpfs /dev
  busybox mount -t tmpfs -o mode=0755 tmpfs /run
  busybox ln -s /proc/mounts /etc/mtab
  for module in /test/modules/*; do busybox insmod "$module"; done
}

# has WORD tells whether it is on the kernel's command line.
has() {
  case " $(busybox cat /proc/cmdline) " in *" $1 "*) ;; *) return 1 ;; esac
}

# type_of POINT prints the type of the file system mounted there last.
type_of() {
  # shellcheck disable=SC2016 # awk's own variables
  busybox awk -v point="$1" '$5 == point { for (i = 6; $i != "-"; i++); type = $(i + 1) } END { print type }' \
    /proc/self/mountinfo
}

#!/usr/bin/env bash
# Installs a runner on a disk, see usage. The package sets
#
#   EC_INSTALL_READ_KEYS  read-keys.sh
#   EC_INSTALL_SYSTEM     a system in the store to install, or nothing:
#   EC_INSTALL_FLAKE      the flake and the configuration to install then
#
# What is mounted is mounted in a namespace of its own, so that nothing stays
# mounted however the script ends.
set -euo pipefail

usage() {
  cat <<'END'
ec-install DISK [--authorized-keys FILE|URL] [--flake FLAKE#NAME]

Erases DISK, such as /dev/nvme0n1, and installs a runner on it. It asks before.

  --authorized-keys FILE|URL  SSH keys that may log in as root, one a line
  --flake FLAKE#NAME          another configuration than that of this image
END
}

fail() {
  printf 'ec-install: %s\n' "$*" >&2
  exit 1
}

# Sizes that docs/RUNNER_IMAGES.md says.
boot_size=1GiB root_size=8GiB var_size=16GiB # and the rest for /nix
least=$((40 * 1024 * 1024 * 1024))           # bytes

read_arguments() {
  disk='' keys_from='' flake=''
  while (($#)); do
    case $1 in
      --help | -h)
        usage
        exit 0
        ;;
      --authorized-keys | --flake)
        [[ -n ${2:-} ]] || fail "$1 needs a value; ec-install --help"
        if [[ $1 == --flake ]]; then flake=$2; else keys_from=$2; fi
        shift
        ;;
      -*) fail "there is no option $1; ec-install --help" ;;
      *)
        [[ -z $disk ]] || fail "$disk and $1: give one disk"
        disk=$1
        ;;
    esac
    shift
  done
  [[ -n $disk ]] || fail "give the disk to install on, such as /dev/nvme0n1; lsblk lists them"
  [[ -z $flake || $flake == *?#?* ]] || fail "--flake $flake: give FLAKE#NAME, such as /etc/every-channel/flake#ec-runner-x86_64"
}

check_machine() {
  ((EUID == 0)) || fail "only root may install; log in as root"
  [[ -d /sys/firmware/efi ]] ||
    fail "this machine was started by its BIOS, and a runner is started by UEFI; start the installer from the firmware's UEFI entry"
}

# column NAME prints what lsblk says of the disk alone.
column() {
  lsblk --nodeps --noheadings --output "$1" "$disk"
}

# check_disk makes sure that DISK is one, that nothing uses it and that it is large
# enough.
check_disk() {
  local given=$disk type size
  [[ -e $disk ]] || fail "$given: there is no such device; lsblk lists the disks"
  disk=$(readlink -f -- "$disk")
  [[ -b $disk ]] || fail "$given: this is no disk; lsblk lists the disks"
  type=$(column TYPE)
  case $type in
    disk | loop) ;;
    part) fail "$given: this is a partition; give the whole disk, /dev/$(column PKNAME)" ;;
    *) fail "$given: this is no disk but a device of the type $type; lsblk lists the disks" ;;
  esac
  (($(column RO) == 0)) || fail "$given: this disk cannot be written to"
  size=$(lsblk --bytes --nodeps --noheadings --output SIZE "$disk")
  ((size >= least)) ||
    fail "$given: this disk has $((size >> 30)) GiB, and a runner needs $((least >> 30)) GiB"
  check_unused "$given"
}

check_unused() {
  local name type mounted
  while read -r name type mounted; do
    case $type:$mounted in
      disk: | loop: | part:) ;;
      *:"[SWAP]") fail "$1: this disk is in use for swap; give another one, or: swapoff /dev/$name" ;;
      *:/*) fail "$1: this disk is in use at ${mounted%%\\x0a*}; give another one, or: umount ${mounted%%\\x0a*}" ;;
      *) fail "$1: this disk is in use by $name ($type); give another one, or take that apart" ;;
    esac
  done < <(lsblk --noheadings --raw --output NAME,TYPE,MOUNTPOINTS "$disk")
}

read_keys() {
  keys=''
  [[ -z $keys_from ]] || keys=$(bash "$EC_INSTALL_READ_KEYS" "$keys_from") ||
    fail "--authorized-keys $keys_from: nothing has been changed"
}

# ask shows what would be lost, and goes on after a yes.
ask() {
  local answer=''
  lsblk --output NAME,SIZE,MODEL,FSTYPE,LABEL "$disk"
  if [[ -n $keys ]]; then
    printf '\nThese may log in as root:\n'
    ssh-keygen -l -f /dev/stdin <<<"$keys"
  else
    printf '\nNo --authorized-keys: only the keys of the configuration may log in.\n'
  fi
  printf '\nEverything on %s will be lost. Type yes to go on: ' "$disk"
  read -r answer || printf '\n'
  [[ $answer == yes ]] || fail "the answer was not yes; nothing has been changed"
}

# partition N prints the device of a partition.
partition() {
  case $disk in
    *[0-9]) printf '%sp%s\n' "$disk" "$1" ;; # nvme0n1p1, mmcblk0p1
    *) printf '%s%s\n' "$disk" "$1" ;;
  esac
}

make_file_systems() {
  printf '\nPartitioning %s\n' "$disk"
  sfdisk --quiet --lock --wipe always --wipe-partitions always "$disk" <<END
label: gpt
size=$boot_size, type=uefi, name=ec-boot
size=$root_size, type=linux, name=ec-root
size=$var_size, type=linux, name=ec-var
type=linux, name=ec-nix
END
  udevadm settle # or it takes the partitions away for a moment
  mkfs.vfat -F 32 -n EC-BOOT "$(partition 1)" >/dev/null
  mkfs.ext4 -q -F -L ec-root "$(partition 2)"
  mkfs.ext4 -q -F -L ec-var "$(partition 3)"
  mkfs.ext4 -q -F -L ec-nix "$(partition 4)"
}

mount_file_systems() {
  mkdir -p /mnt
  mount "$(partition 2)" /mnt
  mkdir /mnt/{boot,nix,var}
  mount -o umask=0077 "$(partition 1)" /mnt/boot
  mount "$(partition 3)" /mnt/var
  mount "$(partition 4)" /mnt/nix
}

# write_identity gives the machine what is its own: the read-only root would make
# another machine-id(5) at each boot.
write_identity() {
  mkdir -p /mnt/etc
  tr -d - </proc/sys/kernel/random/uuid >/mnt/etc/machine-id
  chmod 0444 /mnt/etc/machine-id
  [[ -n $keys ]] || return 0
  mkdir -p /mnt/var/lib/every-channel/authorized_keys.d
  printf '%s\n' "$keys" >/mnt/var/lib/every-channel/authorized_keys.d/root
}

install_system() {
  local what=(--flake "${flake:-$EC_INSTALL_FLAKE}")
  if [[ -z $flake && -n ${EC_INSTALL_SYSTEM:-} ]]; then
    what=(--system "$EC_INSTALL_SYSTEM")
  fi
  nixos-install --root /mnt --no-root-passwd --no-channel-copy "${what[@]}"
}

finish() {
  umount -R /mnt
  cat <<END

A runner is installed on $disk. Now:
  1. reboot, and take the installation medium out;
  2. ask your DHCP server for its address: ssh root@ADDRESS.
Its state is on the file system ec-var: mount LABEL=ec-var /mnt to put secrets there first.
END
}

main() {
  read_arguments "$@"
  check_machine
  check_disk
  read_keys
  ask
  make_file_systems
  mount_file_systems
  write_identity
  install_system
  finish
}

if [[ ${EC_INSTALL_NAMESPACE:-} != "$$" ]]; then
  # The same process, with mounts of its own.
  EC_INSTALL_NAMESPACE=$$ exec unshare --mount --propagation private bash "${BASH_SOURCE[0]}" "$@"
fi
main "$@"

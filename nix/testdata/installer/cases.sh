#!/usr/bin/bash
# Calls ec-install as people do. Disks: /dev/nvme0n1 and /dev/vda are large enough,
# /dev/vdb is too small, /dev/vdc has a file system.
set -uo pipefail

report() { echo "report: $*"; }

# run NAME INPUT ARGUMENT… reports how a call ended and the last that it said.
run() {
  local name=$1 input=$2 code
  shift 2
  printf '%s' "$input" | ec-install "$@" >/test/output 2>&1
  code=$?
  report "$name: $code $(tail -n 1 /test/output)"
}

# whether DISK is still as it was: nothing but zeros at its start.
untouched() {
  (($(head -c 4194304 "$1" | tr -d '\0' | wc -c) == 0)) && echo untouched || echo written to
}

# group PID prints the process group that it is in.
group() {
  local stat
  read -r stat <"/proc/$1/stat"
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  echo "$3"
}

ec-install() {
  EC_INSTALL_READ_KEYS=/test/read-keys.sh EC_INSTALL_SYSTEM=${system:-} \
    EC_INSTALL_FLAKE=/etc/every-channel/flake#ec-runner-x86_64 bash /test/ec-install.sh "$@"
}

echo true >/test/behaviour
ssh-keygen -q -t ed25519 -N '' -C one -f /test/one
ssh-keygen -q -t ed25519 -N '' -C two -f /test/two
{ echo '# operators'; cat /test/one.pub; echo; cat /test/two.pub; } >/test/keys
: >/test/empty
{ cat /test/one.pub; echo 'ssh-ed25519 AAAA three'; } >/test/broken
mkdir -p /dev/disk/by-id /media
ln -s ../../nvme0n1 /dev/disk/by-id/nvme-of-a-test

run help '' --help
run bios 'yes' /dev/nvme0n1
# UEFI is not what this machine was started by.
mount -t tmpfs tmpfs /sys/firmware && mkdir /sys/firmware/efi

run nothing ''
run missing 'yes' /dev/sdz
run file 'yes' /test/keys
run character 'yes' /dev/zero
run small 'yes' /dev/vdb
blockdev --setro /dev/vda
run readonly 'yes' /dev/vda
blockdev --setrw /dev/vda
mount /dev/vdc /media
run mounted 'yes' /dev/vdc
umount /media
mkswap -q /dev/vdc && swapon /dev/vdc
run swap 'yes' /dev/vdc
swapoff /dev/vdc
run option 'yes' --yes /dev/nvme0n1
run two 'yes' /dev/nvme0n1 /dev/vda
run value 'yes' /dev/nvme0n1 --authorized-keys
run flake 'yes' /dev/nvme0n1 --flake /etc/flake
for keys in empty broken one absent; do
  run "keys-$keys" 'yes' /dev/nvme0n1 --authorized-keys /test/$keys
done
run keys-scheme 'yes' /dev/nvme0n1 --authorized-keys ftp://boot/keys
run silent '' /dev/nvme0n1
run refusing $'no\n' /dev/nvme0n1
run unsure $'y\n' /dev/nvme0n1
report "nvme0n1: $(untouched /dev/nvme0n1)"
report "vda: $(untouched /dev/vda)"

# A name that ends with a digit, by another name.
run installed $'yes\n' /dev/disk/by-id/nvme-of-a-test --authorized-keys /test/keys
shown=0
while read -r line; do [[ $line != *SHA256:* ]] || shown=$((shown + 1)); done </test/output
report "fingerprints shown: $shown"
while read -r line; do report "called $line"; done </test/called
while read -r line; do report "table $line"; done < <(sfdisk --dump /dev/nvme0n1)
for number in 1 2 3 4; do
  report "partition $number: $(lsblk --noheadings --bytes --output SIZE /dev/nvme0n1p$number) $(blkid -o value -s TYPE /dev/nvme0n1p$number) $(blkid -o value -s LABEL /dev/nvme0n1p$number)"
done
report "left mounted: $(findmnt --noheadings --output TARGET /mnt)"
run partition 'yes' /dev/nvme0n1p2
mount /dev/nvme0n1p3 /media
run used 'yes' /dev/nvme0n1
report "keys on the disk: $(tail -n 1 /media/lib/every-channel/authorized_keys.d/root | cut -d ' ' -f 3)"
umount /media

# Another name, the image's own system, no keys.
system=/nix/store/00000000000000000000000000000000-system
run system $'yes\n' /dev/vda
while read -r line; do report "with system: $line"; done </test/called
report "vda2: $(blkid -o value -s LABEL /dev/vda2)"
run other $'yes\n' /dev/vda --flake /etc/site#runner
while read -r line; do report "with flake: $line"; done </test/called
system=''

echo 'echo "there is no such flake" >&2; exit 3' >/test/behaviour
run failing $'yes\n' /dev/vda
report "left mounted after a failure: $(findmnt --noheadings --output TARGET /mnt)"

# Interrupted, politely and not.
echo 'echo $$ >/test/pid; exec sleep 1000' >/test/behaviour
for signal in INT TERM KILL; do
  rm -f /test/pid
  printf 'yes\n' >/test/yes
  EC_INSTALL_READ_KEYS=/test/read-keys.sh EC_INSTALL_FLAKE=f#n \
    setsid --wait env --default-signal=INT bash /test/ec-install.sh /dev/vda </test/yes >/test/output 2>&1 &
  until [[ -s /test/pid ]]; do sleep 0.1; done
  report "seen from outside during $signal: $(findmnt --noheadings --output TARGET /mnt)"
  # As a terminal does: to the whole group.
  kill "-$signal" -- "-$(group "$(cat /test/pid)")"
  wait
  until ! kill -0 "$(cat /test/pid)" 2>/dev/null; do sleep 0.1; done
  report "left mounted after $signal: $(findmnt --noheadings --output TARGET /mnt)"
done
echo true >/test/behaviour
run again $'yes\n' /dev/vda
report "end"

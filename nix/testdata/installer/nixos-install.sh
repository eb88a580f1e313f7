#!/usr/bin/bash
# Takes the place of nixos-install: writes down how it was called and what it found,
# and does what the case that is under way has in /test/behaviour.
{
  echo "arguments: $*"
  for name in /mnt /mnt/boot /mnt/nix /mnt/var; do
    echo "mounted: $name $(findmnt --noheadings --output FSTYPE,LABEL,OPTIONS --mountpoint "$name")"
  done
  echo "machine-id: $(cat /mnt/etc/machine-id)"
  echo "keys: $(cat /mnt/var/lib/every-channel/authorized_keys.d/root)"
} >/test/called 2>&1
# shellcheck source=/dev/null
. /test/behaviour

#!/usr/bin/env bash
# Writes the SSH keys that a machine was given at its boot:
#
#   boot-keys.sh FILE [URL]
#
# The keys at URL, or at the address that the kernel's command line has, and those
# of the credential ssh.authorized_keys.root. Where there are none, neither is FILE.
# COMMAND_LINE is read in the place of /proc/cmdline.
set -euo pipefail

read_keys=$(dirname "${BASH_SOURCE[0]}")/read-keys.sh
file=$1
url=${2:-}
credential=${CREDENTIALS_DIRECTORY:-}/ssh.authorized_keys.root

read -ra words <"${COMMAND_LINE:-/proc/cmdline}"
for word in "${words[@]}"; do
  case $word in every-channel.authorized_keys=*) url=${word#*=} ;; esac
done

keys=''
if [[ -s $credential ]]; then
  keys+=$(bash "$read_keys" "$credential")$'\n'
fi
if [[ -n $url ]]; then
  keys+=$(bash "$read_keys" "$url")$'\n'
fi
if [[ -z $keys ]]; then
  rm -f "$file"
  echo "no keys were given with this boot"
  exit 0
fi

mkdir -p "$(dirname "$file")"
printf '%s' "$keys" >"$file.new"
mv "$file.new" "$file"
echo "$(wc -l <"$file") keys may log in"

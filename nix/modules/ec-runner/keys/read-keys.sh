#!/usr/bin/env bash
# Prints the SSH keys of a file or an address, as authorized_keys has them
# (sshd(8)), after it has looked at each:
#
#   read-keys.sh FILE|URL
#
# Empty lines and comments are left out. It fails, and prints nothing, where there
# is no key, or where a line is none.
set -euo pipefail

fail() {
  printf '%s: %s\n' "$source" "$*" >&2
  exit 1
}

source=$1
most=65536 # bytes
case $source in
  http://* | https://*)
    content=$(curl --fail --silent --show-error --location --proto '=http,https' --max-time 60 -- "$source" |
      head -c $((most + 1)) | tr -d '\0') ||
      fail "cannot be downloaded; is the address right, and the network up?"
    ;;
  *://*) fail "give a file, or an address that begins with http:// or https://" ;;
  *)
    [[ -f $source ]] || fail "there is no such file"
    content=$(head -c $((most + 1)) -- "$source" | tr -d '\0')
    ;;
esac
((${#content} <= most)) || fail "this is longer than $((most / 1024)) KiB; keys are not"

keys=''
number=0
while IFS= read -r line; do
  number=$((number + 1))
  line=${line%$'\r'}
  [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
  case $line in *"PRIVATE KEY"*) fail "line $number belongs to a private key; give the .pub file" ;; esac
  ssh-keygen -l -f /dev/stdin <<<"$line" >/dev/null 2>&1 ||
    fail "line $number is no SSH key; one looks like ssh-ed25519 AAAA… name"
  keys+=$line$'\n'
done <<<"$content"
[[ -n $keys ]] || fail "there is no SSH key in it"
printf '%s' "$keys"

#!/bin/sh
# Runs ec-node with the channel of a tuner that is looked up on the network.
#
#   publish.sh DEVICE_ID CHANNEL COMMAND…
#
# hdhomerun_config (of libhdhomerun) asks all tuners of the network for their
# addresses; it writes a line "hdhomerun device 1038ABCD found at 10.20.30.9" for
# each. The word INPUT in the command becomes the channel's address. A tuner that
# does not answer ends the script with 1, and systemd tries again.
set -eu

device_id=$1
channel=$2
shift 2

found=$(hdhomerun_config discover 2>&1 || true) # it fails if it finds none
address=$(printf '%s\n' "$found" | while read -r _ _ id _ _ address; do
  case $id:$address in
    "$device_id":*:*) ;; # IPv6, perhaps only valid on one link
    "$device_id":?*) printf '%s\n' "$address" && break ;;
  esac
done)
if [ -z "$address" ]; then
  printf 'the HDHomeRun %s does not answer on this network; trying again\n' "$device_id" >&2
  printf 'hdhomerun_config discover: %s\n' "$found" >&2
  exit 1
fi
printf 'the HDHomeRun %s is at %s\n' "$device_id" "$address" >&2

# Go once around the words of the command.
count=$#
while [ "$count" -gt 0 ]; do
  word=$1
  shift
  if [ "$word" = INPUT ]; then word=http://$address/auto/v$channel; fi
  set -- "$@" "$word"
  count=$((count - 1))
done
exec "$@"

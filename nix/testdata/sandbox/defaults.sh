#!/bin/busybox sh
# shellcheck shell=dash
# Runs on a machine with the units that the modules make of their defaults, and says
# what they do.
PATH=/usr/bin
report() { echo "report: $*" >/dev/console; }
bb() { /bin/busybox "$@"; }
fetch() { bb wget -q -O - "$1" 2>&1; }
show() { systemctl show --property "$2" --value "$1"; }

bb ip address add 10.20.30.2/32 dev lo
bb ip link set lo up

# The server comes up before anything is staged. NixOS calls this when it starts, and when
# a configuration is switched to.
systemd-tmpfiles --create --prefix=/var/lib/every-channel-netboot
systemctl start every-channel-netboot.service
report "serve: $? $(systemctl is-active every-channel-netboot.service)"
report "script before: $(fetch http://10.20.30.2/netboot.ipxe)"
systemctl start every-channel-netboot-stage.timer
report "timer: $? $(systemctl is-active every-channel-netboot-stage.timer) $(bb test -n "$(show every-channel-netboot-stage.timer NextElapseUSecRealtime)" && echo elapses)"
systemctl start every-channel-netboot-stage.service
report "stage: $? $(show every-channel-netboot-stage.service Result)"
report "script: $(fetch http://10.20.30.2/netboot.ipxe | bb grep -c '^kernel ')"
report "page: $(fetch http://127.0.0.1:8077/ | bb grep -c boot-v2)"
report "autoexec: $(cd /run && bb tftp -g -r autoexec.ipxe -l autoexec 10.20.30.2 && bb grep -c 'http://10.20.30.2/netboot.ipxe' autoexec)"
report "ipxe: $(cd /run && bb tftp -g -r ec-ipxe.efi -l ipxe 10.20.30.2 && bb cat ipxe)"

systemctl start ec-node-kqed.service
while bb test "$(show ec-node-kqed.service NRestarts)" -lt 2; do bb sleep 1; done
report "node: $(journalctl --no-pager --output=cat --unit ec-node-kqed.service | bb grep '^ec-node of ' | bb sort -u)"
report "busybox: $(journalctl --no-pager --output=cat --unit ec-node-kqed.service | bb grep '^busybox: ' | bb sort -u)"
journalctl --no-pager --output=cat --unit 'every-channel-*' --unit 'ec-node-*' >/dev/console
bb poweroff -f

#!/bin/busybox sh
# shellcheck shell=dash
# Runs on a machine with the boot server's units, and says what they do.
PATH=/usr/bin
report() { echo "report: $*" >/dev/console; }
bb() { /bin/busybox "$@"; }
awk() { /bin/busybox awk "$@"; }
fetch() { bb wget -q -O - "$1" 2>&1; }
pid() { systemctl show --property MainPID --value every-channel-netboot.service; }

bb ip address add 10.20.30.2/32 dev lo
bb ip link set lo up
systemctl start every-channel-netboot-stage.service
report "stage: $? $(systemctl show --property Result --value every-channel-netboot-stage.service)"
report "current: $(bb basename "$(bb readlink /var/lib/every-channel-netboot/current)")"
systemctl start every-channel-netboot.service # returns when it has said that it is ready
report "serve: $? $(systemctl is-active every-channel-netboot.service)"

status=/proc/$(pid)/status
report "user: $(awk '/^Uid/ { print $2 }' "$status") $(awk '/^Gid/ { print $2 }' "$status")"
report "owner: $(bb stat -c '%u %g %a' /var/lib/every-channel-netboot)"
report "write: $(bb nsenter -t "$(pid)" -m -- /bin/busybox touch /var/lib/every-channel-netboot/current.new 2>&1)"
# As the documentation has it.
systemctl start rollback.service
report "rollback: $(journalctl --no-pager --output=cat --unit rollback.service | bb grep 'roll back')"
report "capabilities: $(awk '/^CapBnd/ { print $2 }' "$status") $(awk '/^CapEff/ { print $2 }' "$status")"
report "seccomp: $(awk '/^Seccomp:/ { print $2 }' "$status")"

report "health: $(fetch http://10.20.30.2/healthz)"
report "script without token: $(fetch http://10.20.30.2/netboot.ipxe)"
report "script with token: $(fetch http://10.20.30.2/a-secret-word/netboot.ipxe | bb grep -c '^kernel ')"
report "metrics: $(fetch http://127.0.0.1:8077/metrics | bb grep -c '^# TYPE')"
report "autoexec: $(cd /run && bb tftp -g -r autoexec.ipxe -l autoexec 10.20.30.2 && bb grep -c a-secret-word autoexec)"
report "ipxe: $(cd /run && bb tftp -g -r ec-ipxe.efi -l ipxe 10.20.30.2 && bb cat ipxe)"

machines=/var/lib/every-channel-netboot-serve/machines.json
report "machines: $(bb stat -c '%u %g %a' /var/lib/every-channel-netboot-serve "$machines" | bb tr '\n' ' ')"

before=$(pid)
systemctl reload every-channel-netboot.service
report "reload: $? $([ "$before" = "$(pid)" ] && echo same process)"
for _ in 1 2 3 4 5 6 7; do # oftener than systemd lets units start that have a limit
  systemctl restart every-channel-netboot.service || break
done
report "restarted: $(systemctl is-active every-channel-netboot.service every-channel-netboot-http.socket | bb tr '\n' ' ')"
report "staged: $(journalctl --no-pager --output=cat --unit every-channel-netboot-stage.service | bb grep -c '^Starting ')"
for _ in 1 2 3 4 5; do # a page that does not come is shown with the log
  fetch http://127.0.0.1:8077/ >/run/page && break
  bb head -c 300 /run/page
  bb sleep 1
done
report "machines after restart: $(bb grep -c 'data-machine=' /run/page)"
systemctl stop every-channel-netboot.service
report "machines kept: $(bb grep -c '"machines":\[{"address":"10.20.30.2"' "$machines")"
report "stop: $(systemctl show --property Result --value every-channel-netboot.service)"
fetch http://10.20.30.2/healthz >/dev/null # does not start it again
report "stopped: $(systemctl is-active every-channel-netboot.service)"
report "proxy: $(journalctl --no-pager --output=cat --unit every-channel-netboot.service | bb grep -c 'answering PXE clients')"
journalctl --no-pager --output=cat --unit 'every-channel-*' >/dev/console
bb poweroff -f

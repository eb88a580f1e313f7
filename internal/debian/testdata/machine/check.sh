#!/bin/bash
# Runs on a machine with a fresh Debian: installs the package, sets the boot server up
# as docs/DEBIAN.md has it, upgrades and removes it, and says what there is.
report() { echo "report: $*" >/dev/console; }
busybox() { /mnt/busybox "$@"; }
fetch() { busybox wget -q -O - "$1" 2>&1; }
show() { systemctl show --property "$2" --value "$1"; }
count() { journalctl --no-pager --output=cat --unit "$1" --grep "$2" 2>/dev/null | wc -l; }
install() { DEBIAN_FRONTEND=noninteractive apt-get -qq --yes install "$1" >/run/apt.log 2>&1 || cat /run/apt.log; }
active() { systemctl is-active "${units[@]}" | tr '\n' ' '; }
left() { find /etc /usr /var/lib -xdev -name '*runner-images*' | LC_ALL=C sort | tr '\n' ' '; }
units=(runner-images-netboot{.service,-http.socket,-tftp.socket,-status.socket,-stage-first.service,-stage.timer})
state=/var/lib/runner-images-netboot
conf=/etc/default/runner-images-netboot

busybox ip link set lo up
busybox ip address add 10.20.30.3/24 dev eth0
busybox ip link set eth0 up

report "before: $(left)"
install /mnt/1/runner-images_*.deb
report "installed: $(dpkg-query --show --showformat='${Version} ${Status}' runner-images)"
report "enabled: $(systemctl is-enabled runner-images-netboot)"
report "active: $(active)"
report "users: $(id -un runner-images-netboot) $(id -gn runner-images-netboot) $(id -un runner-images-netboot-serve) $(id -gn runner-images-netboot-serve)"
report "state: $(stat -c '%U %G %a' $state)"
for unit in "${units[@]}" runner-images-netboot-{stage.service,proxy-dhcp.socket,pxe.socket}; do
  report "verify $unit: $(systemd-analyze verify --man=no "$unit" 2>&1)"
done
for unit in runner-images-netboot.service runner-images-netboot-stage.service; do
  systemd-analyze security --no-pager --threshold=12 "$unit" >/run/security 2>&1
  report "security $unit: $?"
done

# Nothing is configured.
systemctl start runner-images-netboot
report "unconfigured: $(active)"
report "unconfigured script: $(fetch http://10.20.30.3/netboot.ipxe) $(fetch http://127.0.0.1/healthz)"
until [[ $(show runner-images-netboot-stage Result) = exec-condition ]]; do busybox sleep 1; done
report "unconfigured stage: $(journalctl --no-pager --output=cat --unit runner-images-netboot-stage --grep 'Nothing is staged')"
systemctl stop runner-images-netboot
until [[ $(systemctl is-active runner-images-netboot-stage-first) = inactive ]]; do busybox sleep 1; done
report "stopped: $(active)"

# The configuration that it takes, and the command.
sed -i 's|^STAGE_OPTIONS=.*|STAGE_OPTIONS="--forge-url file:///mnt/releases"|' $conf
systemctl enable --now runner-images-netboot 2>/dev/null
report "configured: $(active)"
until [[ -e $state/current ]]; do busybox sleep 1; done
until [[ $(show runner-images-netboot-stage ActiveState) = inactive ]]; do busybox sleep 1; done
report "stage: $(show runner-images-netboot-stage Result)"
report "timer: $([[ -n $(show runner-images-netboot-stage.timer NextElapseUSecRealtime) ]] && echo elapses)"
report "current: $(basename "$(readlink $state/current)")"
status=/proc/$(show runner-images-netboot MainPID)/status
report "runs as: $(awk '/^Uid/ { print $2 }' "$status" | xargs id -un) $(awk '/^(CapEff|Seccomp):/ { print $2 }' "$status" | tr '\n' ' ')"

# ProxyDHCP beside.
sed -i 's|^SERVE_OPTIONS=.*|SERVE_OPTIONS="--proxy-dhcp --interface eth0"|' $conf
systemctl enable runner-images-netboot-proxy-dhcp.socket 2>/dev/null
systemctl daemon-reload
systemctl restart runner-images-netboot
report "restarted: $(active)$(systemctl is-active runner-images-netboot-{proxy-dhcp,pxe}.socket | tr '\n' ' ')"
report ready
finished() { fetch http://127.0.0.1:8077/metrics | awk '/^netboot_boots_finished_total/ { n += $2 } END { print n + 0 }'; }
until [[ $(finished) = 2 ]]; do busybox sleep 1; done
report "page: $(fetch http://127.0.0.1:8077/ | grep -c boot-v1)"

# A rollback by hand lasts: nothing was staged again.
report "stagings: $(count runner-images-netboot-stage '^boot-v1 is current')"

# A newer version goes on with the configuration and serves.
before=$(show runner-images-netboot MainPID)
install /mnt/2/runner-images_*.deb
report "upgraded: $(dpkg-query --show --showformat='${Version}' runner-images) $(active)$(systemctl is-enabled runner-images-netboot)"
report "upgraded process: $([[ $before != "$(show runner-images-netboot MainPID)" ]] && echo another)"
report "upgraded options: $(grep -c '^STAGE_OPTIONS="--forge-url file:///mnt/releases"$' $conf)"
report "upgraded machines: $(fetch http://127.0.0.1:8077/ | grep -o 52:54:00:00:00:02 | sort -u)"
report "upgraded script: $(fetch http://10.20.30.3/netboot.ipxe | grep -c '^kernel ')"

dpkg --remove runner-images >/dev/null 2>&1
if systemctl --quiet is-failed runner-images-netboot; then # why is in the log of the machine
  systemctl show runner-images-netboot --property=Result,ExecMainCode,ExecMainStatus
  journalctl --unit=runner-images-netboot --lines=30 --output=short-precise --no-pager
fi
report "removed: $(active)$(busybox netstat -lntu | grep -cE ':(80|69|67|4011|8077) ')"
report "removed files: $(left)"

# What was enabled runs again when the package is back.
install /mnt/2/runner-images_*.deb
report "reinstalled: $(active)"

busybox mount -o bind $state $state # as a disk for the releases is
dpkg --purge runner-images >/dev/null 2>&1
report "purged package: $(dpkg-query --show --showformat='${Status}' runner-images 2>/dev/null)"
report "purged disk: $(busybox ls -A $state)"
busybox umount $state && busybox rmdir $state
report "purged: $(left)"
report "purged users: $(getent passwd | grep -c runner-images-netboot)"
report "failed: $(systemctl list-units --failed --plain --no-legend)"
systemctl poweroff --force --force

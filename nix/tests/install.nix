# The ISO installs a runner on a disk; the runner boots, is upgraded and boots again.
# An upgrade here is what nixos-rebuild does when it has built: nothing is evaluated
# or downloaded.
self:
{ pkgs, ... }:
let
  runner =
    generation:
    self.nixosConfigurations.ec-runner-x86_64.extendModules {
      modules = [
        ./instrumented.nix
        { environment.etc."generation".text = generation; }
      ];
    };
  toplevel = generation: (runner generation).config.system.build.toplevel;

  iso = self.nixosConfigurations.ec-runner-x86_64-iso.extendModules {
    modules = [
      ./instrumented.nix
      {
        services.every-channel.installer.system = toplevel "first";
        isoImage.squashfsCompression = "zstd -Xcompression-level 1";
        # To upgrade to, in the place of a download.
        system.extraDependencies = [ (toplevel "second") ];
      }
    ];
  };

  # One machine: with the medium in it, or started from its disk.
  # What qemu-common.nix takes differs between releases of nixpkgs.
  inherit (pkgs.callPackage (pkgs.path + "/nixos/lib/qemu-common.nix") { }) qemuBinary;
  start = pkgs.writeShellScript "start" ''
    set -eu
    # The driver gives each machine a folder in the same one.
    shared=$(dirname "$PWD")
    if ! test -e "$shared/disk.qcow2"; then
      ${pkgs.qemu_test}/bin/qemu-img create -f qcow2 "$shared/disk.qcow2" 48G
      install -m 0644 ${pkgs.OVMF.variables} "$shared/variables.fd"
    fi
    medium=
    if test "$1" = installer; then
      medium="-cdrom $(echo ${iso.config.system.build.isoImage}/iso/*.iso)"
    fi
    shift
    exec ${qemuBinary pkgs.qemu_test} -m 4096 -smp 2 -nic none $medium \
      -drive if=pflash,format=raw,unit=0,readonly=on,file=${pkgs.OVMF.firmware} \
      -drive if=pflash,format=raw,unit=1,file="$shared/variables.fd" \
      -drive if=none,id=disk,file="$shared/disk.qcow2" -device nvme,drive=disk,serial=1 "$@"
  '';
in
{
  name = "install";

  nodes = { };

  testScript = ''
    from typing import Any

    # By newer drivers' types, create_machine's machine might be a container, which has
    # no shutdown(); scripts are type-checked.
    installer: Any = create_machine("${start} installer", name="installer")
    installer.start()
    installer.wait_for_unit("multi-user.target")
    installer.wait_for_unit("getty@tty1.service")
    installer.succeed("ssh-keygen -q -t ed25519 -N ''' -f /tmp/key")
    private_key = installer.succeed("cat /tmp/key")

    with subtest("nothing is erased without a yes"):
        installer.fail("ec-install /dev/nvme0n1 --authorized-keys /tmp/key.pub </dev/null")
        installer.fail("test -e /dev/nvme0n1p1")

    with subtest("the installation needs no network"):
        installer.succeed("echo yes | ec-install /dev/nvme0n1 --authorized-keys /tmp/key.pub >&2")
        installer.fail("findmnt /mnt")

    # What a binary cache would have.
    installer.succeed("mount LABEL=ec-root /mnt && mount LABEL=ec-nix /mnt/nix")
    installer.succeed("nix copy --no-check-sigs --to /mnt ${toplevel "second"}")
    installer.succeed("umount -R /mnt")
    installer.shutdown()

    runner: Any = create_machine("${start} runner", name="runner")


    def look(generation: str) -> tuple[str, str]:
        runner.start()
        runner.wait_for_unit("multi-user.target")
        runner.wait_for_unit("sshd.service")
        assert runner.succeed("cat /etc/generation") == generation
        runner.succeed("test $(findmnt -n -o FSTYPE / | tail -n 1) = overlay")
        for point in "/boot", "/nix", "/var":
            runner.succeed(f"findmnt {point}")
        runner.succeed(f"printf %s '{private_key}' >/tmp/key && chmod 600 /tmp/key")
        runner.succeed("ssh -o StrictHostKeyChecking=accept-new -i /tmp/key root@localhost true")
        assert "0 loaded units listed" in runner.succeed("systemctl --failed"), "a unit failed"
        return runner.succeed("cat /etc/machine-id"), runner.succeed("cat /var/lib/ssh/ssh_host_ed25519_key.pub")


    with subtest("the installed runner boots"):
        identity = look("first")
        runner.succeed("touch /var/lib/kept /root/forgotten && sync")

    with subtest("an upgrade boots"):
        runner.succeed("nix-env -p /nix/var/nix/profiles/system --set ${toplevel "second"}")
        runner.succeed("${toplevel "second"}/bin/switch-to-configuration boot")
        runner.shutdown()
        assert look("second") == identity, "the machine is another one"
        runner.succeed("test -e /var/lib/kept")
        runner.fail("test -e /root/forgotten")

    with subtest("the older generation is in the menu, and boots"):
        runner.succeed("test $(find /boot/loader/entries -name 'nixos-*.conf' | wc -l) = 2")
        runner.succeed("nix-env -p /nix/var/nix/profiles/system --rollback")
        runner.succeed("/nix/var/nix/profiles/system/bin/switch-to-configuration boot")
        runner.shutdown()
        assert look("first") == identity, "the machine is another one"
        runner.shutdown()
  '';
}

# A runner with a read-only root keeps nothing over a reboot, in either kind of
# stage 1 that this nixpkgs has.
self:
{ lib, ... }:
let
  runner = systemdInitrd: {
    imports = [ self.nixosModules.ec-runner ];
    services.every-channel.runner.enable = true;
    boot.initrd.systemd.enable = systemdInitrd;
  };
  nodes = {
    systemd = runner true;
  }
  # nixpkgs 26.05 announced that 26.11 removes it.
  // lib.optionalAttrs (lib.versionOlder lib.trivial.release "26.11") {
    scripted = runner false;
  };
in
{
  name = "overlay-root";

  inherit nodes;

  testScript = ''
    for machine in [${lib.concatStringsSep ", " (lib.attrNames nodes)}]:
        machine.start()
        machine.wait_for_unit("multi-user.target")
        machine.succeed("test $(findmnt -n -o FSTYPE / | tail -1) = overlay")
        machine.succeed("touch /written /etc/written /root/written && sync")
        machine.succeed("test -e /.overlay-root/upper/etc/written")
        machine.succeed("test -d /.overlay-root/lower/etc")
        machine.fail("touch /.overlay-root/lower/written")
        machine.fail("test -e /run/overlay-root.failed")

        machine.shutdown()
        machine.start()
        machine.wait_for_unit("multi-user.target")
        for file in "/written", "/etc/written", "/root/written":
            machine.fail(f"test -e {file}")
        assert "0 loaded units listed" in machine.succeed("systemctl --failed"), "a unit failed"
        machine.shutdown()
  '';
}

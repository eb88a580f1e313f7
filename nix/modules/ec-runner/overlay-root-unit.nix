# The service that runs overlay-root.sh in systemd's initrd, without its command:
# a function of the mount units below the root, which have to wait for it. It is
# data, so that a test boots it with systemd where there is no nixpkgs.
{ mountsBelow }:
{
  description = "Make the root read-only, with a tmpfs for writes";

  # Not required by anything: should it fail, the machine boots with the root as
  # it is.
  wantedBy = [ "initrd-root-fs.target" ];
  requires = [ "sysroot.mount" ];
  after = [
    "sysroot.mount"
    "systemd-modules-load.service"
  ];
  before = [
    "initrd-root-fs.target"
    "initrd-fs.target"
    "shutdown.target"
    # NixOS mounts these without waiting for initrd-root-fs.target.
    "sysroot-run.mount"
    "sysroot-etc.mount"
  ]
  ++ mountsBelow;
  conflicts = [ "shutdown.target" ];
  unitConfig.DefaultDependencies = false;
  serviceConfig = {
    Type = "oneshot";
    RemainAfterExit = true;
    StandardOutput = "journal+console";
    StandardError = "journal+console";
  };
}

# A runner that is booted over the network and has no disk. Its store is in its
# memory.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  inherit (pkgs.stdenv.hostPlatform) isAarch64;
  kernelFile = config.system.boot.loader.kernelFile;
in
{
  imports = [
    ./common.nix
    "${modulesPath}/installer/netboot/netboot.nix"
    "${modulesPath}/profiles/all-hardware.nix"
    # No documentation, no sounds and icons, no Perl.
    "${modulesPath}/profiles/minimal.nix"
  ];

  # The root is in memory already, and stage 1 puts a tmpfs over the store.
  services.every-channel.runner.overlayRoot.enable = false;

  # The last one is /dev/console, where stage 1 says what is wrong: the screen, since
  # a small machine may have no serial port. The kernel and the login are on both.
  boot.kernelParams = [
    (if isAarch64 then "console=ttyAMA0,115200n8" else "console=ttyS0,115200n8")
    "console=tty0"
  ];

  # A published image has no keys of its own.
  services.every-channel.runner.bootKeys.enable = lib.mkDefault true;

  # The image is in the machine's memory. docs/RUNNER_IMAGES.md lists what is in it.
  fonts.fontconfig.enable = lib.mkDefault false;
  # Nothing is installed or changed on the machine, root is the only user, and disks
  # are not looked at.
  system.disableInstallerTools = lib.mkDefault true;
  programs.nano.enable = lib.mkDefault false;
  security.sudo.enable = lib.mkDefault false;
  services.lvm.enable = lib.mkDefault false;
  boot.bcache.enable = lib.mkDefault false;

  # What a boot server needs and nothing else, with the names that the script has
  # for the kernel and the initrd.
  system.build.netboot = pkgs.linkFarm "netboot" [
    {
      name = kernelFile;
      path = "${config.system.build.kernel}/${kernelFile}";
    }
    {
      name = "initrd";
      path = "${config.system.build.netbootRamdisk}/initrd";
    }
    {
      name = "netboot.ipxe";
      path = "${config.system.build.netbootIpxeScript}/netboot.ipxe";
    }
  ];
}

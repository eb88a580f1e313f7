# A runner that is booted over the network and has no disk. Its store is in its
# memory.
{
  config,
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
  ];

  # The root is in memory already, and stage 1 puts a tmpfs over the store.
  services.every-channel.runner.overlayRoot.enable = false;

  # The last one is /dev/console. Machines without a screen are watched here.
  boot.kernelParams = [
    "console=tty0"
    (if isAarch64 then "console=ttyAMA0,115200n8" else "console=ttyS0,115200n8")
  ];

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

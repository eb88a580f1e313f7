# A runner that is installed on a disk: everything on file systems with labels, so
# that one configuration fits all machines. docs/RUNNER_IMAGES.md says how to make
# them.
{ lib, modulesPath, ... }:
{
  imports = [
    ./common.nix
    "${modulesPath}/profiles/all-hardware.nix"
  ];

  boot.loader = {
    systemd-boot.enable = true;
    efi.canTouchEfiVariables = true;
  };

  fileSystems = {
    "/" = {
      label = "ec-root";
      fsType = "ext4";
    };
    "/nix" = {
      label = "ec-nix";
      fsType = "ext4";
      neededForBoot = true;
      options = [ "noatime" ];
    };
    "/var" = {
      label = "ec-var";
      fsType = "ext4";
      neededForBoot = true;
    };
    "/boot" = {
      label = "EC-BOOT";
      fsType = "vfat";
      options = [ "umask=0077" ];
    };
  };

  services.every-channel.runner.overlayRoot.enable = lib.mkDefault true;
}

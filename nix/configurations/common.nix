# What all runners have in common.
{
  lib,
  options,
  pkgs,
  ...
}:
{
  services.every-channel.runner.enable = true;

  networking = {
    hostName = lib.mkDefault "ec-runner";
    useDHCP = lib.mkDefault true;
  };

  hardware = {
    enableRedistributableFirmware = lib.mkDefault true;
    cpu = lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86 {
      amd.updateMicrocode = lib.mkDefault true;
      intel.updateMicrocode = lib.mkDefault true;
    };
  }
  # Up to nixpkgs 24.11, importing profiles/all-hardware.nix is enough.
  // lib.optionalAttrs (options.hardware ? enableAllHardware) {
    enableAllHardware = lib.mkDefault true;
  };

  # A module that not every kernel can be had with, for a file system that no
  # runner has.
  boot.supportedFilesystems.zfs = lib.mkForce false;

  # An appliance is not configured on the machine itself.
  documentation.nixos.enable = lib.mkDefault false;

  system.stateVersion = lib.mkDefault "24.11";
}

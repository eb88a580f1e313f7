# A runner on a USB stick or a CD, to look at a machine or to install it from.
{ lib, modulesPath, ... }:
{
  imports = [
    ./common.nix
    (import ./image-name.nix "ec-runner-x86_64-iso")
    "${modulesPath}/installer/cd-dvd/iso-image.nix"
    "${modulesPath}/profiles/all-hardware.nix"
  ];

  # Stage 1 puts a tmpfs over the store, and the root is in memory.
  services.every-channel.runner.overlayRoot.enable = false;

  # Nobody knows a password, and there is none: whoever sits at the machine is root.
  # Over the network it takes a key.
  services.getty.autologinUser = lib.mkDefault "root";
  services.every-channel.installer.enable = true;
  services.every-channel.runner.bootKeys.enable = lib.mkDefault true;

  isoImage = {
    # Stage 1 finds the medium by this name.
    volumeID = "EC_RUNNER_X86_64";
    makeEfiBootable = true;
    makeUsbBootable = true;
  };
}

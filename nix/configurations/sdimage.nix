# A runner on an SD card, for small aarch64 boards such as the Raspberry Pi.
{ modulesPath, ... }:
{
  imports = [
    ./common.nix
    (import ./image-name.nix "ec-runner-aarch64-sdimage")
    "${modulesPath}/installer/sd-card/sd-image-aarch64.nix"
  ];

  # The card's first boot grows its root and registers the store, and there is
  # only one file system to keep things on.
  services.every-channel.runner.overlayRoot.enable = false;
}

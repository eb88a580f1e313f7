# Tests in virtual machines of NixOS, for whoever has KVM and a binary cache.
{ pkgs, self }:
pkgs.lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
  overlay-root = pkgs.testers.runNixOSTest (import ./overlay-root.nix self);
  netboot = pkgs.testers.runNixOSTest (import ./netboot.nix self);
}

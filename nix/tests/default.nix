# Tests in virtual machines of NixOS, for whoever has KVM and a binary cache. What
# their scripts say of addresses, units and commands is held against the machines'
# configurations by nix/vm_tests_test.go, which needs neither.
{ pkgs, self }:
let
  test = module: pkgs.testers.runNixOSTest module;
  netboot = variant: test (import ./netboot.nix { inherit self variant; });
in
pkgs.lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
  overlay-root = test (import ./overlay-root.nix self);
  install = test (import ./install.nix self);
  netboot = netboot { name = "netboot"; };
  netboot-bios = netboot {
    name = "netboot-bios";
    bios = true;
  };
  netboot-rings = netboot {
    name = "netboot-rings";
    rings = true;
  };
}

# A machine of the fleet: an appliance that is booted from an image, keeps little,
# and can build and verify its own image.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib)
    literalExpression
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    types
    ;
  cfg = config.services.every-channel.runner;
in
{
  imports = [
    ./actions.nix
    ./builders.nix
    ./flake.nix
    ./keys.nix
    ./overlay-root.nix
  ];

  options.services.every-channel.runner = {
    enable = mkEnableOption "the defaults of an every.channel runner: Nix with flakes, SSH by key, a short memory";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../../package.nix { };
      defaultText = literalExpression "runner-images, of this flake";
      description = "The `runner-images` command of the machine. The flake's own is built with the flake's nixpkgs.";
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [
      cfg.package
      # What a repair by hand needs.
      pkgs.curl
      pkgs.dosfstools
      pkgs.e2fsprogs
      pkgs.ethtool
      pkgs.gitMinimal
      pkgs.gptfdisk
      pkgs.pciutils
      pkgs.tcpdump
      pkgs.usbutils
    ];

    nix = {
      settings.experimental-features = [
        "nix-command"
        "flakes"
      ];
      gc = {
        automatic = mkDefault true;
        dates = mkDefault "weekly";
        options = mkDefault "--delete-older-than 14d";
      };
    };

    boot.loader = {
      systemd-boot.configurationLimit = mkDefault 10;
      grub.configurationLimit = mkDefault 10;
      generic-extlinux-compatible.configurationLimit = mkDefault 10;
    };

    services = {
      # Newer nixpkgs has all of journald.conf in one option.
      journald =
        if options.services.journald ? settings then
          { settings.Journal.Storage = mkDefault "volatile"; }
        else
          { storage = mkDefault "volatile"; };

      openssh = {
        enable = mkDefault true;
        settings = {
          PasswordAuthentication = false;
          KbdInteractiveAuthentication = false;
          PermitRootLogin = mkDefault "prohibit-password";
        };
      };
    };

    users = {
      mutableUsers = mkDefault false;
      # An image is published without keys; a site adds its own.
      allowNoPasswordLogin = mkDefault true;
    };
  };
}

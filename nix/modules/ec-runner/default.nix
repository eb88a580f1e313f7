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
    ./overlay-root.nix
  ];

  options.services.every-channel.runner = {
    enable = mkEnableOption "the defaults of an every.channel runner: Nix with flakes, SSH by key, a short memory";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../../package.nix { };
      defaultText = literalExpression "runner-images, of this flake";
      description = "The `runner-images` command of the machine.";
    };

    flakeSource = mkOption {
      type = types.nullOr types.path;
      default = null;
      defaultText = literalExpression "the source of this flake";
      description = ''
        The source of the flake that the machine is built from, with its lock. It
        is at {file}`/etc/every-channel/flake`, so that a runner can build and
        verify its own image:
        `nix build /etc/every-channel/flake#nixosConfigurations.…`. Null leaves
        it out.
      '';
    };

    authorizedKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… operator" ];
      description = ''
        SSH keys that may log in as root. There are no passwords: without a key
        nobody logs in.
      '';
    };
  };

  config = mkIf cfg.enable {
    # A mount, and no link as files in /etc are: Nix takes no link for a flake.
    systemd.services.every-channel-flake = mkIf (cfg.flakeSource != null) {
      description = "Source of this machine's flake";
      wantedBy = [ "multi-user.target" ];
      path = [ pkgs.util-linux ];
      script = ''
        mkdir -p /etc/every-channel/flake
        mount --bind ${cfg.flakeSource} /etc/every-channel/flake
        mount -o remount,bind,ro /etc/every-channel/flake
      '';
      preStop = "umount /etc/every-channel/flake";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
    };

    environment.systemPackages = [
      cfg.package
      # What a repair by hand needs.
      pkgs.curl
      pkgs.dosfstools
      pkgs.e2fsprogs
      pkgs.ethtool
      pkgs.git
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
      users.root.openssh.authorizedKeys.keys = cfg.authorizedKeys;
    };
  };
}

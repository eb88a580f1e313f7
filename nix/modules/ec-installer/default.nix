# An image to install from: ec-install puts a runner on a disk.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkIf
    mkOption
    types
    ;
  cfg = config.services.every-channel.installer;

  ec-install = pkgs.writeShellApplication {
    name = "ec-install";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.curl
      pkgs.dosfstools
      pkgs.e2fsprogs
      pkgs.openssh
      pkgs.systemd
      pkgs.util-linux
    ];
    # nixos-install is the system's own.
    text = ''
      export EC_INSTALL_READ_KEYS=${../ec-runner/keys/read-keys.sh}
      export EC_INSTALL_FLAKE=${lib.escapeShellArg cfg.flake}
      export EC_INSTALL_SYSTEM=${lib.escapeShellArg (lib.optionalString (cfg.system != null) cfg.system)}
      exec ${lib.getExe pkgs.bash} ${./ec-install.sh} "$@"
    '';
  };
in
{
  options.services.every-channel.installer = {
    enable = mkEnableOption "the command `ec-install`, which installs a runner on a disk";

    flake = mkOption {
      type = types.strMatching "[^#]+#[^#]+";
      default = "/etc/every-channel/flake#ec-runner-${lib.removeSuffix "-linux" pkgs.stdenv.hostPlatform.system}";
      defaultText = literalExpression ''"/etc/every-channel/flake#ec-runner-x86_64", or -aarch64'';
      description = "The flake and the name of its configuration that is installed where {option}`system` is null.";
    };

    system = mkOption {
      type = types.nullOr types.path;
      default = null;
      defaultText = literalExpression "ec-runner-x86_64 of this flake, if flakeSource is this flake too";
      example = literalExpression "self.nixosConfigurations.ec-runner-x86_64.config.system.build.toplevel";
      description = ''
        The system that is installed. It is in the image, so that installing needs
        no network and evaluates nothing. Null: {option}`flake` says what is
        installed, and what the image lacks of it is downloaded or built.
      '';
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ ec-install ];
    # In the image, as the script's text names it.
    system.extraDependencies = lib.optional (cfg.system != null) cfg.system;

    services.getty.helpLine = ''

      ec-install installs a runner on a disk: lsblk lists the disks, ec-install --help says more.
    '';
  };
}

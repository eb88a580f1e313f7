# The machine as a runner of Forgejo Actions, so that a fleet can build its own
# images. Jobs run on the host, with Nix.
#
# nixpkgs up to 26.05 has services.gitea-actions-runner, which registers with a
# registration token. From 26.11 on there is services.forgejo-runner, for runners
# that the forge made beforehand, with a UUID and a token.
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
    mkEnableOption
    mkIf
    mkOption
    types
    ;
  runner = config.services.every-channel.runner;
  cfg = runner.actions;
  hasForgejoRunner = options.services ? forgejo-runner;

  hostPackages = [
    runner.package
    config.nix.package
    pkgs.bash
    pkgs.coreutils
    pkgs.curl
    pkgs.gawk
    pkgs.git
    pkgs.gnugrep
    pkgs.gnused
    pkgs.gnutar
    pkgs.gzip
    pkgs.nodejs # most published actions are written for it
    pkgs.openssh
  ];
in
{
  options.services.every-channel.runner.actions = {
    enable = mkEnableOption "running jobs of Forgejo Actions on this machine, without containers and with Nix";

    url = mkOption {
      type = types.strMatching "https?://.+";
      example = "https://forge.every.channel";
      description = "The forge's address.";
    };

    tokenFile = mkOption {
      type = types.either types.str types.path;
      example = "/var/lib/secrets/actions-token";
      description = ''
        A file with the token, readable by root only and not in the Nix store.
        With nixpkgs up to 26.05 it has one line, `TOKEN=` and a registration
        token of the forge; with newer ones, where {option}`uuid` is needed too,
        the token alone.
      '';
    };

    uuid = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "33834eef-e758-48c4-a676-1745426747aa";
      description = "What the forge calls this runner. Needed with nixpkgs 26.11 and newer, and only there.";
    };

    name = mkOption {
      type = types.singleLineStr;
      default = config.networking.hostName;
      defaultText = literalExpression "config.networking.hostName";
      description = "What people call this runner.";
    };

    labels = mkOption {
      type = types.nonEmptyListOf (types.strMatching "[^: ]+:host");
      default = [
        "nix:host"
        "${pkgs.stdenv.hostPlatform.system}:host"
      ];
      defaultText = literalExpression ''[ "nix:host" "''${pkgs.stdenv.hostPlatform.system}:host" ]'';
      description = ''
        The `runs-on` that this runner takes, each with `:host` behind it, because
        its jobs run on the machine itself.
      '';
    };
  };

  config = mkIf (runner.enable && cfg.enable) {
    assertions = [
      {
        assertion = hasForgejoRunner -> cfg.uuid != null;
        message = ''
          services.every-channel.runner.actions.uuid is not set. This nixpkgs has services.forgejo-runner, which needs it:
          make a runner in the forge's settings, which show its UUID and its token.
        '';
      }
      {
        assertion = !lib.hasPrefix builtins.storeDir (toString cfg.tokenFile);
        message = ''
          services.every-channel.runner.actions.tokenFile is in the Nix store, where everybody can read it.
          Use a string with the path of a file on the machine.
        '';
      }
    ];

    services =
      if hasForgejoRunner then
        {
          forgejo-runner.instances.every-channel = {
            enable = true;
            settings.runner.name = cfg.name;
            connections.forge = {
              inherit (cfg) url labels;
              uuid = if cfg.uuid == null then "" else cfg.uuid; # the assertion says more
              tokenFile = toString cfg.tokenFile;
            };
            inherit hostPackages;
          };
        }
      else
        {
          gitea-actions-runner = {
            package = pkgs.forgejo-runner;
            instances.every-channel = {
              enable = true;
              inherit (cfg) name url labels;
              tokenFile = toString cfg.tokenFile;
              inherit hostPackages;
            };
          };
        };
  };
}

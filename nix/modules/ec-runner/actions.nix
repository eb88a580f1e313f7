# The machine as a runner of Forgejo Actions or Gitea Actions, so that a fleet can
# build its own images. Jobs run on the host, with Nix.
#
# There are two ways for a runner to become known to a forge, and nixpkgs has a
# module for each: services.gitea-actions-runner registers with a registration
# token (Gitea, and Forgejo before 15), and services.forgejo-runner, since nixpkgs
# 26.11, connects with the UUID and the token that Forgejo shows when the runner is
# made there. Where there is a UUID and not that module, there is a unit here.
{
  config,
  lib,
  options,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    types
    ;
  runner = config.services.every-channel.runner;
  cfg = runner.actions;

  instance = "every-channel";
  # What decides how the runner is run, by the name of the service that does it.
  service =
    if cfg.uuid == null then
      "gitea-runner-${utils.escapeSystemdPath instance}"
    else if options.services ? forgejo-runner then
      "forgejo-runner-${utils.escapeSystemdPath instance}"
    else
      ownService;
  ownService = "every-channel-actions";

  # Where the token is, alone and as an EnvironmentFile.
  secrets = "/run/every-channel/actions";
  sh = lib.getExe' pkgs.bash "sh";

  # Older ones know a forge only from the file that registering leaves behind.
  readsConnections = lib.versionAtLeast cfg.package.version "12.8";
  settings = import ./actions/settings.nix cfg;
  # JSON is YAML too.
  configFile = pkgs.writeText "forgejo-runner.yaml" (
    builtins.toJSON (if readsConnections then settings.connected else settings.registered)
  );

  hostPackages = [
    runner.package
    config.nix.package
    pkgs.bash
    pkgs.coreutils
    pkgs.curl
    pkgs.gawk
    pkgs.gitMinimal
    pkgs.gnugrep
    pkgs.gnused
    pkgs.gnutar
    pkgs.gzip
    pkgs.nodejs # most published actions are written for it
    pkgs.openssh
  ];

  option = "services.every-channel.runner.actions";
in
{
  options.services.every-channel.runner.actions = {
    enable = mkEnableOption "running jobs of Forgejo Actions or Gitea Actions on this machine, without containers and with Nix";

    package = mkOption {
      type = types.package;
      default = pkgs.forgejo-runner;
      defaultText = literalExpression "pkgs.forgejo-runner";
      example = literalExpression "pkgs.gitea-actions-runner";
      description = "The runner's program. For Gitea set it to `pkgs.gitea-actions-runner`.";
    };

    url = mkOption {
      type = types.strMatching "https?://.+";
      example = "https://forge.every.channel";
      description = "The forge's address.";
    };

    tokenFile = mkOption {
      type = types.either types.str types.path;
      example = "/var/lib/secrets/actions-token";
      description = ''
        A file with the token, alone or behind `TOKEN=`, readable by root only and
        not in the Nix store. With a {option}`uuid` it is the token that Forgejo
        shows with the UUID, without one a registration token.
      '';
    };

    uuid = mkOption {
      type = types.nullOr (types.strMatching "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}");
      default = null;
      example = "33834eef-e758-48c4-a676-1745426747aa";
      description = ''
        What Forgejo calls this runner: its page for a new runner shows it, from
        Forgejo 15 on. Null: the runner registers by itself, as Gitea and older
        releases of Forgejo have it.
      '';
    };

    name = mkOption {
      type = types.singleLineStr;
      default = config.networking.hostName;
      defaultText = literalExpression "config.networking.hostName";
      description = "What people call this runner. With a {option}`uuid`, it is what Forgejo's page says.";
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

  config = mkIf (runner.enable && cfg.enable) (mkMerge [
    {
      assertions = [
        {
          assertion = cfg.uuid != null || options.services ? gitea-actions-runner;
          message = ''
            ${option}.uuid is not set, and this nixpkgs has no services.gitea-actions-runner to register a runner with.
            Make a runner in the forge's settings and set uuid to the UUID, and tokenFile to a file with the token, that they show.
          '';
        }
        {
          assertion = cfg.uuid == null || !lib.hasPrefix "gitea" (lib.getName cfg.package);
          message = ''
            ${option}: uuid is set, which only Forgejo has, and package is a runner of Gitea's.
            For Gitea leave uuid out; for Forgejo leave package out.
          '';
        }
        {
          assertion = !lib.hasPrefix builtins.storeDir (toString cfg.tokenFile);
          message = ''
            ${option}.tokenFile is in the Nix store, where everybody can read it.
            Use a string with the path of a file on the machine.
          '';
        }
      ];

      systemd.services.every-channel-actions-token = {
        description = "Token of this machine's runner";
        path = [ pkgs.coreutils ];
        requiredBy = [ "${service}.service" ];
        before = [ "${service}.service" ];
        serviceConfig = {
          Type = "oneshot";
          ExecStart = "${sh} ${./actions/token.sh}";
          LoadCredential = "token:${toString cfg.tokenFile}";
          RuntimeDirectory = lib.removePrefix "/run/" secrets;
          RuntimeDirectoryMode = "0700";
          RuntimeDirectoryPreserve = true;
          WorkingDirectory = secrets;
        };
      };
    }

    (mkIf (service == ownService) {
      systemd.services.${ownService} = {
        description = "Runner of Forgejo Actions";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        path = hostPackages;
        environment.HOME = "/var/lib/${ownService}";
        serviceConfig = {
          DynamicUser = true;
          StateDirectory = ownService;
          WorkingDirectory = "/var/lib/${ownService}";
          # Jobs run what they build. A dynamic user's folder may be mounted noexec.
          ExecPaths = [ "/var/lib/${ownService}" ];
          LoadCredential = "token:${secrets}/token";
          ExecStartPre =
            if readsConnections then
              # With what an older one has left, it would not know which to take.
              "${lib.getExe' pkgs.coreutils "rm"} -f .runner"
            else
              utils.escapeSystemdExecArgs [
                sh
                "${./actions/registration.sh}"
                (builtins.toJSON settings.registration)
              ];
          ExecStart = "${lib.getExe cfg.package} daemon --config ${configFile}";
          Restart = "on-failure";
          RestartSec = "10s";
        };
      };
    })

    {
      services =
        lib.optionalAttrs (options.services ? forgejo-runner) {
          forgejo-runner = mkIf (cfg.uuid != null) {
            package = cfg.package;
            instances.${instance} = {
              enable = true;
              settings = {
                runner = { inherit (cfg) labels; };
                server.connections.forge = {
                  inherit (cfg) url uuid;
                  token = null; # it comes as a credential, from token_url
                };
              };
              secrets.server.connections.forge.token_url = "${secrets}/token";
              inherit hostPackages;
            };
          };
        }
        // lib.optionalAttrs (options.services ? gitea-actions-runner) {
          gitea-actions-runner = mkIf (cfg.uuid == null) {
            package = cfg.package;
            instances.${instance} = {
              enable = true;
              inherit (cfg) name url labels;
              tokenFile = "${secrets}/token.env";
              inherit hostPackages;
            };
          };
        };
    }

    (mkIf (cfg.uuid == null) {
      systemd.services.${service}.serviceConfig.ExecPaths = [ "/var/lib/gitea-runner" ];
    })
  ]);
}

# A stand-in for services.forgejo-runner, which nixpkgs has from 26.11 on: the options
# that a runner needs, with the types and the lack of defaults that they have there
# (pull request 529621 of nixpkgs), and what of them its unit has.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib) mkOption types;
  yaml = pkgs.formats.yaml { };

  # types.externalPath of newer nixpkgs: a path, as a string, and not in the store.
  externalPath = types.addCheck types.str (
    path: lib.hasPrefix "/" path && !lib.hasPrefix builtins.storeDir path
  );
  secrets = types.oneOf [
    externalPath
    (types.attrsOf secrets)
  ];

  connection = types.submodule {
    freeformType = yaml.type;
    options = {
      url = mkOption { type = types.str; };
      uuid = mkOption { type = types.str; };
      token = mkOption { type = types.nullOr types.str; };
    };
  };
  instance = types.submodule (
    { config, ... }:
    {
      options = {
        enable = lib.mkEnableOption "this instance";
        settings = mkOption {
          default = { };
          type = types.submodule {
            freeformType = yaml.type;
            # Secrets are settings too, each with the address of its credential.
            config = lib.mapAttrsRecursive (
              path: _: "file:$CREDENTIALS_DIRECTORY/${lib.concatStringsSep "__" path}"
            ) config.secrets;
            options = {
              runner.labels = mkOption { type = types.listOf types.str; };
              server.connections = mkOption {
                type = types.attrsOf connection;
                default = { };
              };
            };
          };
        };
        secrets = mkOption {
          type = secrets;
          default = { };
        };
        hostPackages = mkOption { type = types.listOf types.package; };
      };
    }
  );
in
{
  options.services.forgejo-runner = {
    package = mkOption {
      type = types.package;
      default = pkgs.forgejo-runner;
    };
    instances = mkOption {
      type = types.attrsOf instance;
      default = { };
    };
  };

  config.systemd.services = lib.mapAttrs' (
    name: instance:
    lib.nameValuePair "forgejo-runner-${utils.escapeSystemdPath name}" {
      inherit (instance) enable;
      wantedBy = [ "multi-user.target" ];
      path = instance.hostPackages;
      serviceConfig = {
        DynamicUser = true;
        StateDirectory = "forgejo-runner/${name}";
        ExecPaths = [ "/var/lib/forgejo-runner/${name}" ];
        ExecStart = "${lib.getExe config.services.forgejo-runner.package} daemon --config ${
          pkgs.writeText "config.yaml" (builtins.toJSON instance.settings)
        }";
        LoadCredential = lib.collect lib.isString (
          lib.mapAttrsRecursive (path: file: "${lib.concatStringsSep "__" path}:${file}") instance.secrets
        );
      };
    }
  ) config.services.forgejo-runner.instances;
}

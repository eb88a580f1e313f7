# The source of the flake that the machine is built from, at
# /etc/every-channel/flake, and whatever else it takes to build the machine again.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  runner = config.services.every-channel.runner;
  source = "${runner.flakeSource}";

  # The sources of a flake's inputs, of their inputs, and so on.
  sourcesOf =
    flake:
    let
      entries = of: map entry (lib.attrValues (of.inputs or { }));
      entry = input: {
        key = builtins.unsafeDiscardStringContext "${input}";
        inherit input;
      };
    in
    map (found: "${found.input}") (
      builtins.genericClosure {
        startSet = entries flake;
        operator = found: entries found.input;
      }
    );
in
{
  options.services.every-channel.runner = {
    flakeSource = mkOption {
      type = types.nullOr types.path;
      default = null;
      defaultText = lib.literalExpression "this flake";
      example = lib.literalExpression "self";
      description = ''
        The flake that the machine is built from: in a flake's own outputs, `self`.
        Its source, with its lock, is at {file}`/etc/every-channel/flake`, so that
        a runner can build and verify its own image:
        `nix build /etc/every-channel/flake#nixosConfigurations.…`. Null leaves
        it out.
      '';
    };

    flakeInputs = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether the sources of all inputs of {option}`flakeSource` are in the system
        too. Otherwise a runner that builds its own image fetches them, from forges
        that may be private. That of nixpkgs is some 270 MB, 40 MB in an image; NixOS
        has it in the system anyway, for {command}`nix run nixpkgs#…`.
      '';
    };
  };

  config = mkIf (runner.enable && runner.flakeSource != null) {
    # A mount, and no link as files in /etc are: Nix takes no link for a flake.
    systemd.services.every-channel-flake = {
      description = "Source of this machine's flake";
      wantedBy = [ "multi-user.target" ];
      path = [ pkgs.util-linux ];
      script = ''
        mkdir -p /etc/every-channel/flake
        mount --bind ${source} /etc/every-channel/flake
        mount -o remount,bind,ro /etc/every-channel/flake
      '';
      # Somebody may be in there.
      preStop = "umount -l /etc/every-channel/flake";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
    };

    # A path does not say what its inputs are. (Its lock does, but Nix fetches what
    # builtins.fetchTree is told from there again, so that nothing would evaluate
    # without a network.)
    warnings = lib.optional (runner.flakeInputs && !(runner.flakeSource ? inputs)) ''
      services.every-channel.runner.flakeSource is a path, so that the sources of the flake's inputs are not in the system.
      Set it to the flake itself (self, not self.outPath), or flakeInputs = false.
    '';
    system.extraDependencies = mkIf runner.flakeInputs (sourcesOf runner.flakeSource);
  };
}

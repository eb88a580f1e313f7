# Other machines that build for this one, such as one with another processor.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  runner = config.services.every-channel.runner;

  builder = types.submodule {
    options = {
      systems = mkOption {
        type = types.nonEmptyListOf types.str;
        example = [ "aarch64-linux" ];
        description = "What it builds for.";
      };
      user = mkOption {
        type = types.singleLineStr;
        default = "nix-ssh";
        description = "Who to log in as. The builder has to trust this user; `nix-ssh` is the one of `nix.sshServe`.";
      };
      sshKey = mkOption {
        type = types.strMatching "/.*";
        example = "/var/lib/secrets/builder-key";
        description = "A file with the SSH key to log in with, without a passphrase, readable by root only and not in the Nix store.";
      };
      hostKey = mkOption {
        type = types.singleLineStr;
        example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI…";
        description = "The builder's own SSH key, as its {file}`ssh_host_ed25519_key.pub` has it.";
      };
      maxJobs = mkOption {
        type = types.ints.positive;
        default = 1;
        description = "How many derivations it builds at once.";
      };
      features = mkOption {
        type = types.listOf types.singleLineStr;
        default = [ "big-parallel" ];
        description = "The features that it has, see `system-features` in {manpage}`nix.conf(5)`. Kernels want `big-parallel`.";
      };
    };
  };
in
{
  options.services.every-channel.runner.builders = mkOption {
    type = types.attrsOf builder;
    default = { };
    example = {
      "arm.every.channel" = {
        systems = [ "aarch64-linux" ];
        sshKey = "/var/lib/secrets/builder-key";
        hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI…";
      };
    };
    description = ''
      Machines to build on, by their names or addresses. Nix' daemon uses them for
      whoever builds here, jobs of {option}`actions` too, which it does not trust to
      name others.
    '';
  };

  config = mkIf (runner.enable && runner.builders != { }) {
    assertions = lib.mapAttrsToList (host: machine: {
      assertion = !lib.hasPrefix builtins.storeDir machine.sshKey;
      message = ''
        services.every-channel.runner.builders."${host}".sshKey is in the Nix store, where everybody can read it.
        Use a string with the path of a file on the machine.
      '';
    }) runner.builders;

    nix = {
      distributedBuilds = true;
      # What a binary cache has, a builder fetches by itself.
      settings.builders-use-substitutes = true;
      buildMachines = lib.mapAttrsToList (hostName: machine: {
        inherit hostName;
        inherit (machine) systems sshKey maxJobs;
        protocol = "ssh-ng";
        sshUser = machine.user;
        supportedFeatures = machine.features;
      }) runner.builders;
    };

    programs.ssh.knownHosts = lib.mapAttrs (_: machine: { publicKey = machine.hostKey; }) runner.builders;
  };
}

# A root that is read-only, with a tmpfs for what is written to it, set up in
# stage 1 by overlay-root.sh.
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
    mkIf
    mkMerge
    mkOption
    optional
    optionalAttrs
    types
    ;
  runner = config.services.every-channel.runner;
  cfg = runner.overlayRoot;
  enabled = runner.enable && cfg.enable;

  script = pkgs.writeTextFile {
    name = "overlay-root.sh";
    text = builtins.readFile ./overlay-root.sh;
    executable = true;
    # It is started with the initrd's own shell. Its first line is for people.
    checkPhase = "${pkgs.stdenv.shellDryRun} $target";
  };

  below = lib.filter (fs: fs.mountPoint != "/" && utils.fsNeededForBoot fs) (
    lib.attrValues config.fileSystems
  );

  # A mount of a device of its own, or of memory: not a part of the root that is
  # bound to another place.
  ownMount =
    path:
    lib.any (
      fs: fs.enable or true && fs.mountPoint == path && !(lib.elem "bind" fs.options || lib.elem "rbind" fs.options)
    ) (lib.attrValues config.fileSystems);
  bootsFromOwnMount =
    ownMount "/boot"
    || config.boot.loader.systemd-boot.enable && ownMount config.boot.loader.efi.efiSysMountPoint;
  keepsStore = ownMount "/nix" || ownMount "/nix/store";
  keepsVar = ownMount "/var" || ownMount "/var/lib";
in
{
  options.services.every-channel.runner.overlayRoot = {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the root is read-only, with a tmpfs for what is written to it: at
        every boot the machine is as it was installed. What is to last needs a file
        system of its own: {file}`/boot` and {file}`/nix` for upgrades, and
        {file}`/var` or folders in it for state.

        The running system has the real root at {file}`/.overlay-root/lower` and
        what has been written to it since it booted at
        {file}`/.overlay-root/upper`. If the overlay cannot be set up, the machine
        boots with its ordinary, writable root, and
        {file}`overlay-root-check.service` fails with the reason.
      '';
    };

    size = mkOption {
      type = types.strMatching "[1-9][0-9]*[kmgKMG%]?";
      default = "50%";
      example = "2g";
      description = "How much may be written to the root before it is full: a share of the memory, or bytes, as {manpage}`tmpfs(5)` has it.";
    };
  };

  config = mkIf enabled (mkMerge [
    {
      boot.initrd.kernelModules = [ "overlay" ];

      assertions = [
        {
          assertion = bootsFromOwnMount -> keepsStore;
          message = ''
            services.every-channel.runner.overlayRoot: the boot loader's files are on a file system of their own and /nix is not.
            After an upgrade and a reboot, the boot menu would name a system that the read-only root does not have.
            Give /nix a file system of its own in fileSystems, or set services.every-channel.runner.overlayRoot.enable = false.
          '';
        }
      ];

      warnings = optional (!keepsStore && !bootsFromOwnMount) ''
        services.every-channel.runner.overlayRoot: /nix is no file system of its own. Upgrades and whatever else is
        built on this machine are lost when it reboots. Give /nix (and /boot) a file system of its own in fileSystems
        to keep them.
      '';

      # /etc/fstab has the options of the real root for /.
      systemd.services.systemd-remount-fs.unitConfig.ConditionPathExists = "!/.overlay-root";

      systemd.services.overlay-root-check = {
        description = "Tell that the root is writable although it should not be";
        wantedBy = [ "multi-user.target" ];
        unitConfig.ConditionPathExists = "/run/overlay-root.failed";
        serviceConfig.Type = "oneshot";
        script = ''
          echo "The root is not read-only: $(cat /run/overlay-root.failed)" >&2
          exit 1
        '';
      };

      # Otherwise a machine would have new host keys after every boot.
      services.openssh.hostKeys = mkIf keepsVar (
        lib.mkDefault [
          {
            type = "ed25519";
            path = "/var/lib/ssh/ssh_host_ed25519_key";
          }
        ]
      );
    }

    (mkIf config.boot.initrd.systemd.enable {
      boot.initrd.systemd = {
        storePaths = [ script ];
        services.overlay-root =
          lib.recursiveUpdate
            (import ./overlay-root-unit.nix {
              mountsBelow = map (fs: "${utils.escapeSystemdPath "/sysroot${fs.mountPoint}"}.mount") below;
            })
            {
              serviceConfig.ExecStart = "/bin/sh ${script} /sysroot ${utils.escapeSystemdExecArg cfg.size}";
            };
      };
    })

    (mkIf (!config.boot.initrd.systemd.enable) {
      boot.initrd =
        # NixOS is about to do without a scripted initrd.
        optionalAttrs (options.boot.initrd ? postMountCommands) {
          postMountCommands = ''
            sh ${script} /mnt-root ${lib.escapeShellArg cfg.size}
          '';
        };
    })
  ]);
}

# Who may log in: SSH keys of the configuration, of the installation, and of the
# boot.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkOption
    optional
    types
    ;
  runner = config.services.every-channel.runner;
  cfg = runner.bootKeys;

  # sshd(8) puts the user's name in the place of %u.
  installed = "/var/lib/every-channel/authorized_keys.d/%u";
  booted = "/run/every-channel/authorized_keys.d/%u";
in
{
  options.services.every-channel.runner = {
    authorizedKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… operator" ];
      description = ''
        SSH keys that may log in as root. There are no passwords: without a key
        nobody logs in. `ec-install` puts others into
        {file}`/var/lib/every-channel/authorized_keys.d/root`.
      '';
    };

    bootKeys = {
      enable = mkEnableOption ''
        SSH keys that the machine is given when it boots, for root: from
        {option}`url`, from the address in `every-channel.authorized_keys=` on the
        kernel's command line, which counts before it, and from systemd's credential
        `ssh.authorized_keys.root`, which `systemd.set_credential_binary=` there
        sets ({manpage}`systemd.system-credentials(7)`). Whoever serves the address,
        or answers for it on the network, decides who logs in'';
      url = mkOption {
        type = types.nullOr (types.strMatching "https?://.+");
        default = null;
        example = "http://boot.every.channel/authorized_keys";
        description = "Where the keys are, one a line. Null: only where the kernel's command line says.";
      };
    };
  };

  config = mkIf runner.enable {
    assertions = [
      {
        assertion = cfg.url == null || cfg.enable;
        message = ''
          services.every-channel.runner.bootKeys.url is set, and nothing asks there: set bootKeys.enable = true, or leave url out.
        '';
      }
    ];

    users.users.root.openssh.authorizedKeys.keys = runner.authorizedKeys;
    services.openssh.authorizedKeysFiles = [ installed ] ++ optional cfg.enable booted;

    systemd.services.every-channel-boot-keys = mkIf cfg.enable {
      description = "SSH keys from the boot server or the kernel's command line";
      wantedBy = [ "multi-user.target" ];
      startLimitIntervalSec = 0;
      path = [
        pkgs.coreutils
        pkgs.curl
        pkgs.openssh
      ];
      serviceConfig = {
        # Nothing waits for it: a network may be long in coming, or never come.
        Type = "exec";
        RemainAfterExit = true;
        ExecStart = utils.escapeSystemdExecArgs (
          [
            (lib.getExe pkgs.bash)
            "${./keys}/boot-keys.sh"
            (builtins.replaceStrings [ "%u" ] [ "root" ] booted)
          ]
          ++ optional (cfg.url != null) cfg.url
        );
        ImportCredential = "ssh.authorized_keys.root";
        # The boot server may be busy, or come up after the machines.
        Restart = "on-failure";
        RestartSec = "10s";
      };
    };
  };
}

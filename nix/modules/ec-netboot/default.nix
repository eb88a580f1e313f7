# A boot server for a fleet: stages a release of boot images and serves it by HTTP
# and TFTP.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkIf
    mkOption
    optional
    optionalString
    types
    ;
  cfg = config.services.every-channel.netboot;
  commands = import ./command.nix cfg;

  name = "every-channel-netboot";
  stateDir = "/var/lib/${name}";
  program = lib.getExe' cfg.package "runner-images";

  cidr = types.strMatching "[0-9a-fA-F.:]+/[0-9]{1,3}";
  # Secrets stay out of the store, and a path in Nix' syntax would go there.
  secretFile = types.strMatching "/.*";

  ringsFile =
    if cfg.rings == { } then null else pkgs.writeText "rings.yaml" (commands.ringsYAML + "\n");
  # The service reads it here, so that a change is a reload and no restart.
  ringsPath = if ringsFile == null then null else "/etc/every-channel/netboot-rings.yaml";
  allowedSignersFile =
    if cfg.release.allowedSigners == [ ] then
      null
    else
      "${pkgs.writeText "allowed_signers" (lib.concatLines cfg.release.allowedSigners)}";

  # Who may log in on machines that ask for it, see bootKeys of ec-runner.
  authorizedKeys = lib.optionalAttrs (cfg.authorizedKeys != [ ]) {
    authorized_keys = "${pkgs.writeText "authorized_keys" (lib.concatLines cfg.authorizedKeys)}";
  };

  # A file that is not in the store is seen by the service in this folder.
  localIPXE = cfg.ipxe.file != null && !lib.hasPrefix "${builtins.storeDir}/" "${cfg.ipxe.file}";
  ipxeDir =
    if localIPXE then
      "/run/${name}/ipxe"
    else if cfg.ipxe.embedded then
      "${embeddedIPXE}"
    else
      "${pkgs.linkFarm "ec-ipxe" (
        authorizedKeys
        // {
          ${cfg.tftpBootFilename} =
            if cfg.ipxe.url == null then
              "${cfg.ipxe.file}"
            else
              pkgs.fetchurl { inherit (cfg.ipxe) url hash; };
        }
      )}";

  embeddedIPXE =
    let
      embedScript = pkgs.writeText "every-channel.ipxe" commands.embeddedScript;
      # iPXE for the machines that boot, which need not be of this one's kind.
      ipxeFor =
        architecture:
        let
          system = pkgs.stdenv.hostPlatform;
          ipxe =
            if architecture == "x86_64" then
              if system.isx86_64 then pkgs.ipxe else pkgs.pkgsCross.gnu64.ipxe
            else if system.isAarch64 then
              pkgs.ipxe
            else
              pkgs.pkgsCross.aarch64-multiplatform.ipxe;
        in
        ipxe.override { inherit embedScript; };
    in
    pkgs.linkFarm "ec-ipxe" (
      authorizedKeys
      // lib.optionalAttrs (lib.elem "x86_64" cfg.ipxe.architectures) {
        ${cfg.tftpBootFilename} = "${ipxeFor "x86_64"}/ipxe.efi";
        "undionly.kpxe" = "${ipxeFor "x86_64"}/undionly.kpxe";
      }
      // lib.optionalAttrs (lib.elem "aarch64" cfg.ipxe.architectures) {
        "ec-ipxe-arm64.efi" = "${ipxeFor "aarch64"}/ipxe.efi";
      }
    );

  credential = file: credentialName: optional (file != null) "${credentialName}:${file}";

  # The server, which the network reaches, reads the state folder by its group, and
  # nothing lets it write there. The folder's owner is who stages.
  server = "${name}-serve";

  # Its own place to write to, for the table of machines.
  serverDir = "/var/lib/${server}";

  isLoopback = builtins.match "(127[.].*|[[]::1[]]|localhost):[0-9]+" cfg.statusAddress != null;
  # With a host's name in it, the server opens the socket itself.
  statusSocket = builtins.match "([0-9.]*|[[].*[]]):[0-9]+" cfg.statusAddress != null;

  # Packets of other networks do not reach a unit. A socket of systemd's heeds what its
  # own unit says, and what a service opens itself what the service's says.
  only = addresses: {
    IPAddressDeny = "any";
    IPAddressAllow = addresses ++ [ "localhost" ];
  };
  machines = more: lib.optionalAttrs (cfg.httpAllowedCIDRs != [ ]) (only (cfg.httpAllowedCIDRs ++ more));
  # A client without an address, and who answers it.
  withoutAddress = [
    "0.0.0.0"
    "255.255.255.255"
  ];

  atListenIP =
    port:
    if lib.hasInfix ":" cfg.listenIP then
      "[${cfg.listenIP}]:${toString port}"
    else
      "${cfg.listenIP}:${toString port}";
  # By the names that the command knows.
  sockets = {
    http = machines [ ] // {
      ListenStream = atListenIP cfg.httpPort;
    };
    tftp = machines [ ] // {
      ListenDatagram = atListenIP 69;
    };
  }
  // lib.optionalAttrs statusSocket {
    status = lib.optionalAttrs isLoopback (only [ ]) // {
      ListenStream = lib.removePrefix ":" cfg.statusAddress;
    };
  }
  // lib.optionalAttrs cfg.proxyDhcp.enable (
    lib.mapAttrs
      (
        _: port:
        machines withoutAddress
        // {
          ListenDatagram = "0.0.0.0:${toString port}";
          BindToDevice = cfg.interface;
          Broadcast = true;
        }
      )
      {
        proxy-dhcp = 67;
        pxe = 4011;
      }
  );
in
{
  options.services.every-channel.netboot = {
    enable = mkEnableOption "the boot server: it stages a release of boot images and serves it by HTTP and TFTP";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../../package.nix { };
      defaultText = literalExpression "runner-images, of this flake";
      description = "The package with the `runner-images` command. The flake's own is built with the flake's nixpkgs.";
    };

    listenIP = mkOption {
      type = types.strMatching "[0-9a-fA-F.:]+";
      example = "10.20.30.2";
      description = "The address to listen on, which machines are told.";
    };

    interface = mkOption {
      type = types.strMatching "[^/ ]{1,15}";
      example = "enp1s0";
      description = "The network interface of the machines to boot. The firewall is opened on it, and on no other.";
    };

    hostname = mkOption {
      type = types.nullOr (types.strMatching "[A-Za-z0-9.-]+");
      default = null;
      example = "boot.every.channel";
      description = ''
        This server's name, as the machines' DNS server knows it. Machines are told
        to use it before {option}`listenIP`.
      '';
    };

    httpPort = mkOption {
      type = types.port;
      default = 80;
      description = "The port of the HTTP server.";
    };

    httpAllowedCIDRs = mkOption {
      type = types.listOf cidr;
      default = [ ];
      example = [ "10.20.30.0/24" ];
      description = "The networks whose machines may boot. None: all that reach {option}`interface`.";
    };

    chainTokenFile = mkOption {
      type = types.nullOr secretFile;
      default = null;
      example = "/var/lib/secrets/chain-token";
      description = ''
        A file with a secret, which becomes part of the path of all that machines
        load by HTTP. It is handed over as a credential, so that it may be readable
        by root only. For a new token restart every-channel-netboot.service, which
        lets transfers end first.
      '';
    };

    filesUrl = mkOption {
      type = types.nullOr (types.strMatching "https?://[^?#@ ]+");
      default = null;
      example = "http://cache.lan:8080";
      description = ''
        Where machines load kernels and initrds from, in place of this server: an HTTP
        cache that fetches them from here, or a copy of them. What this server sees of a
        boot then ends with its script. docs/NUC_UNIFI_NETBOOT.md has a cache's
        configuration. An address with https needs an {option}`ipxe.file` that has TLS.
      '';
    };

    peers = mkOption {
      type = types.listOf (types.strMatching "([A-Za-z0-9._-]+|[[][0-9A-Fa-f:]+[]])(:[0-9]{1,5})?");
      default = [ ];
      example = [ "10.20.30.3" ];
      description = ''
        Other boot servers, each a host and perhaps a port, that stage the same releases
        and have the same chain token. A machine goes on there when this server fails.
      '';
    };

    tftpBootFilename = mkOption {
      type = types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]*";
      default = "ec-ipxe.efi";
      description = ''
        What iPXE for UEFI on x86_64 is called: the DHCP server's boot file, option
        67. On BIOS machines it is `undionly.kpxe`.
      '';
    };

    statusAddress = mkOption {
      type = types.strMatching ".*:[0-9]{1,5}";
      default = "127.0.0.1:8077";
      description = ''
        Where the status page and {file}`/metrics` for Prometheus are. Everybody who
        reaches it sees which machines boot what.
      '';
    };

    alertRules = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to write the alert rules for Prometheus to
        {file}`/etc/every-channel/netboot-alerts.yaml`, for a Prometheus on this machine
        (`services.prometheus.ruleFiles`).
      '';
    };

    statusHostnames = mkOption {
      type = types.listOf (types.strMatching "[A-Za-z0-9._-]+");
      default = [ ];
      example = [ "boot-status.lan" ];
      description = ''
        Names by which browsers reach the status page, for example through a reverse
        proxy, beside IP addresses, `localhost`, {option}`hostname` and the name in
        {option}`statusAddress`. A page of another site cannot read the status page
        through a name of its own.
      '';
    };

    authorizedKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… operator" ];
      description = ''
        SSH keys that this server hands out, at {file}`/authorized_keys`. Machines
        with {option}`services.every-channel.runner.bootKeys` let them log in as root.
      '';
    };

    keep = mkOption {
      type = types.ints.positive;
      default = 3;
      description = "How many releases stay staged, to go back to.";
    };

    proxyDhcp = {
      enable = mkEnableOption ''
        answering PXE clients beside a DHCP server that does not know of this
        server. Leave it off where the DHCP server sends the boot file, as a UniFi
        gateway can'';
      subnet = mkOption {
        type = types.nullOr cidr;
        default = null;
        example = "10.20.30.0/24";
        description = "The network whose clients are answered. Null: the interface's.";
      };
    };

    release = {
      host = mkOption {
        type = types.nullOr types.singleLineStr;
        default = null;
        example = "git.every.channel";
        description = "The forge with the releases: its name, for HTTPS, or an address such as `http://forge.lan:3000` or `file:///srv/releases`.";
      };
      repo = mkOption {
        type = types.nullOr (types.strMatching "[^/ ]+/[^/ ]+");
        default = null;
        example = "every/channel";
        description = "The repository with the releases, owner/name.";
      };
      tag = mkOption {
        type = types.nullOr types.singleLineStr;
        default = null;
        example = "boot-v2026.02.28";
        description = "The release to serve. Null: the latest `boot-*` release that is neither a draft nor a prerelease.";
      };
      tokenFile = mkOption {
        type = types.nullOr secretFile;
        default = null;
        example = "/var/lib/secrets/forge-token";
        description = "A file with a token that may read the releases, for a private repository. It is handed over as a credential.";
      };
      allowedSigners = mkOption {
        type = types.listOf types.singleLineStr;
        default = [ ];
        example = [ "release@every.channel ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI…" ];
        description = ''
          Lines of an allowed_signers file ({manpage}`ssh-keygen(1)`). With any, only
          a release that one of these keys has signed is staged, and none with an older
          bundle than one that was served before.
        '';
      };
      signer = mkOption {
        type = types.nullOr types.singleLineStr;
        default = null;
        example = "release@every.channel";
        description = ''
          Believe only keys that `allowedSigners` lists under this principal, for lists
          that have keys for other things too.
        '';
      };
      maxAge = mkOption {
        type = types.nullOr (types.strMatching "([0-9]+(h|m|s))+");
        default = null;
        example = "720h";
        description = ''
          How old the newest signed proof of the latest release may be. A server that
          hides newer releases is noticed then: the unit that stages fails. What is
          staged stays served. Something has to be published at least this often. Null:
          any age; the status page and `/metrics` have it.
        '';
      };
      tarball = mkOption {
        type = types.nullOr (types.strMatching "/.*");
        default = null;
        example = "/srv/ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz";
        description = ''
          A netboot bundle on this machine, in place of a release. Its kernel says for
          which machines it is, and its name of which release, as in
          `kiosk-boot-v2026.02.28.tar.gz`.
        '';
      };
    };

    rings = mkOption {
      default = { };
      example = {
        canary = {
          releaseTag = "boot-v2026.03.01";
          macs = [ "00:11:22:33:44:55" ];
        };
      };
      description = "Groups of machines that boot another release than the others.";
      type = types.attrsOf (
        types.submodule {
          options = {
            releaseTag = mkOption {
              type = types.singleLineStr;
              example = "boot-v2026.03.01";
              description = "The release that these machines boot. It is staged too.";
            };
            macs = mkOption {
              type = types.listOf (types.strMatching "([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}");
              default = [ ];
              example = [ "00:11:22:33:44:55" ];
              description = "The machines, by the MAC addresses of the cards that they boot from.";
            };
          };
        }
      );
    };

    timer = {
      enable = mkOption {
        type = types.bool;
        default = cfg.release.tarball == null && cfg.release.tag == null;
        defaultText = literalExpression "release.tarball == null && release.tag == null";
        description = "Whether to look for a newer release from time to time, stage it and switch to it.";
      };
      dates = mkOption {
        type = types.singleLineStr;
        default = "hourly";
        description = "When to look for a newer release, as in {manpage}`systemd.time(7)`.";
      };
    };

    ipxe = {
      embedded = mkOption {
        type = types.bool;
        default = cfg.ipxe.file == null && cfg.ipxe.url == null;
        defaultText = literalExpression "ipxe.file == null && ipxe.url == null";
        description = ''
          Whether to build iPXE with a script inside that goes to this server,
          whatever the DHCP server says.
        '';
      };
      architectures = mkOption {
        type = types.nonEmptyListOf (
          types.enum [
            "x86_64"
            "aarch64"
          ]
        );
        default = [ "x86_64" ];
        description = ''
          The processors to build iPXE for. What is not this server's own is made with
          a cross compiler, which may have to be built first. iPXE for aarch64 is
          `ec-ipxe-arm64.efi`.
        '';
      };
      file = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/var/lib/ipxe/ec-ipxe.efi";
        description = ''
          An iPXE binary in place of the built one, which should have an embedded
          script: a path in the configuration, which is copied to the Nix store, or a
          string with the path of a file on the server that everybody may read.
        '';
      };
      url = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://boot.example/ec-ipxe.efi";
        description = "Where to download an iPXE binary, in place of the built one.";
      };
      hash = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        description = "The hash of what {option}`url` has.";
      };
    };
  };

  config = mkIf cfg.enable {
    inherit (commands) assertions;

    # To look at what is staged, and to roll back.
    environment.systemPackages = [ cfg.package ];

    # Who stages, and the owner of the state folder.
    users.users.${name} = {
      isSystemUser = true;
      group = name;
      description = "Stages releases for the boot server";
    };
    users.users.${server} = {
      isSystemUser = true;
      group = name;
      description = "Boot server";
    };
    users.groups.${name} = { };

    environment.etc = {
      "every-channel/netboot-rings.yaml" = mkIf (ringsFile != null) { source = ringsFile; };
      "every-channel/netboot-alerts.yaml" = mkIf cfg.alertRules { source = ./alerts.yaml; };
    };

    # It is there before anything has been staged.
    systemd.tmpfiles.settings.${name}.${stateDir}.d = {
      mode = "0750";
      user = name;
      group = name;
    };

    systemd.services."${name}-stage" = {
      description = "Stage a release for the boot server";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      restartTriggers = optional (ringsFile != null) ringsFile;
      # The forge may not be there yet when everything comes up after a power cut.
      startLimitIntervalSec = 0;
      serviceConfig = import ../sandbox.nix // {
        Type = "oneshot";
        User = name;
        Group = name;
        StateDirectory = name;
        StateDirectoryMode = "0750";
        # The group is the server's.
        UMask = "0027";
        MemoryMax = "1G";
        TasksMax = 256;
        ExecStart =
          map
            (
              words:
              utils.escapeSystemdExecArgs ([ program ] ++ words)
              + optionalString (cfg.release.tokenFile != null) " --token-file %d/forge-token"
            )
            (
              commands.stage {
                inherit stateDir allowedSignersFile;
                ringsFile = ringsPath;
              }
            );
        LoadCredential = credential cfg.release.tokenFile "forge-token";
        Restart = "on-failure";
        RestartSec = "30s";
        RestartSteps = 5;
        RestartMaxDelaySec = "15min";
        CapabilityBoundingSet = "";
        PrivateUsers = true;
      };
    };

    systemd.timers."${name}-stage" = mkIf cfg.timer.enable {
      description = "Look for a newer release for the boot server";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = cfg.timer.dates;
        RandomizedDelaySec = "10min";
      };
    };

    # systemd opens the ports below 1024, so that the server needs no capability.
    systemd.sockets = lib.mapAttrs' (
      socket: socketConfig:
      lib.nameValuePair "${name}-${socket}" {
        description = "Boot server, ${socket}";
        # Else the next packet would start a server that was stopped.
        partOf = [ "${name}.service" ];
        # They start with the server, however often that is restarted: without them it has
        # no right to its ports.
        unitConfig.StartLimitIntervalSec = 0;
        socketConfig = {
          Service = "${name}.service";
          FileDescriptorName = socket;
          FreeBind = true;
        }
        // socketConfig;
      }
    ) sockets;

    systemd.services.${name} = {
      description = "Boot server";
      wantedBy = [ "multi-user.target" ];
      # What was staged before is served while the forge is away. And it does not ask
      # for staging, or each restart would undo a rollback by hand.
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      reloadTriggers = optional (ringsFile != null) ringsFile;
      startLimitIntervalSec = 0;
      serviceConfig = import ../sandbox.nix // {
        Type = "notify-reload";
        User = server;
        Group = name;
        UMask = "0077";
        StateDirectory = server;
        StateDirectoryMode = "0700";
        Sockets = map (socket: "${name}-${socket}.socket") (lib.attrNames sockets);
        # What is read from the disk counts too, and is given back first: a small limit
        # would have each machine's initrd read from the disk again.
        MemoryMax = "50%";
        # A thread for each transfer that waits for the disk.
        TasksMax = 4096;
        # The server cannot raise it, and a transfer takes two.
        LimitNOFILE = 16384;
        ExecStart =
          utils.escapeSystemdExecArgs (
            [ program ]
            ++ commands.serve {
              inherit stateDir ipxeDir;
              machinesFile = "${serverDir}/machines.json";
              ringsFile = ringsPath;
            }
          )
          + optionalString (cfg.chainTokenFile != null) " --chain-token-file %d/chain-token";
        LoadCredential = credential cfg.chainTokenFile "chain-token";
        BindReadOnlyPaths = lib.optionals localIPXE (
          [ "${cfg.ipxe.file}:${ipxeDir}/${cfg.tftpBootFilename}" ]
          ++ lib.mapAttrsToList (file: path: "${path}:${ipxeDir}/${file}") authorizedKeys
        );
        Restart = "always";
        RestartSec = "2s";
        # Transfers under way may end, which takes a minute at most.
        TimeoutStopSec = "90s";
        CapabilityBoundingSet = "";
        PrivateUsers = true;
      }
      # Where the server opens the status page's socket itself, anyone may reach that.
      // lib.optionalAttrs (statusSocket || isLoopback) (machines [ ]);
    };

    networking.firewall.interfaces.${cfg.interface} = {
      allowedTCPPorts = [ cfg.httpPort ];
      allowedUDPPorts = [
        69
      ]
      ++ lib.optionals cfg.proxyDhcp.enable [
        67
        4011
      ];
    };
  };
}

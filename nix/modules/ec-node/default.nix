# Publishes channels of an HDHomeRun tuner to a relay, one unit a broadcast.
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
    types
    ;
  cfg = config.services.every-channel.ec-node;

  commandLine = import ./command.nix;

  broadcast = types.submodule {
    options = {
      name = mkOption {
        type = types.strMatching "[A-Za-z0-9][A-Za-z0-9._-]*";
        example = "kqed";
        description = "The broadcast's name on the relay, and of its unit: `ec-node-NAME.service`.";
      };
      channel = mkOption {
        type = types.strMatching "[0-9]+([.][0-9]+)?";
        example = "9.1";
        description = "The channel on the tuner, with its dot.";
      };
      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "More arguments to `ec-node wt-publish`, for this broadcast only.";
      };
    };
  };

  # Null in the options becomes something that can be built with; the assertions
  # tell what to set.
  program = if cfg.package == null then "/no-package" else lib.getExe' cfg.package "ec-node";

  service =
    broadcast:
    let
      hdhomerun = cfg.hdhomerun;
      words =
        if hdhomerun.host != null then
          [ program ] ++ commandLine cfg broadcast "http://${hdhomerun.host}/auto/v${broadcast.channel}"
        else
          [
            (lib.getExe' pkgs.bash "sh")
            "${./publish.sh}"
            (lib.toUpper (toString hdhomerun.deviceId))
            broadcast.channel
            program
          ]
          ++ commandLine cfg broadcast "INPUT";
    in
    {
      description = "Publish ${broadcast.name}, channel ${broadcast.channel}";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # A tuner or a relay may be away for days.
      startLimitIntervalSec = 0;
      path =
        lib.optional (hdhomerun.host == null) pkgs.libhdhomerun
        ++ lib.optional (cfg.ffmpeg != null) cfg.ffmpeg;
      serviceConfig = import ../sandbox.nix // {
        ExecStart = utils.escapeSystemdExecArgs words;
        Restart = "always";
        RestartSec = "2s";
        RestartSteps = 5;
        RestartMaxDelaySec = "60s";

        DynamicUser = true;
        CapabilityBoundingSet = "";
        PrivateUsers = true;
        UMask = "0077";
      }
      // lib.optionalAttrs cfg.hardwareTranscoding {
        PrivateDevices = false;
        DeviceAllow = [ "char-drm rw" ];
        SupplementaryGroups = [
          "render"
          "video"
        ];
        # Or the groups that may open the device would not count.
        PrivateUsers = false;
        # Drivers compile shaders.
        MemoryDenyWriteExecute = false;
      };
    };
in
{
  options.services.every-channel.ec-node = {
    enable = mkEnableOption "publishing channels of an HDHomeRun tuner with ec-node";

    package = mkOption {
      type = types.nullOr types.package;
      default = null;
      example = lib.literalExpression "inputs.every-channel.packages.x86_64-linux.ec-node";
      description = "The package with the `ec-node` command. It is another project's, so there is none here.";
    };

    relay = mkOption {
      type = types.strMatching "https?://.+";
      example = "https://relay.every.channel/anon";
      description = "The relay's address, as `--url` of `ec-node wt-publish`.";
    };

    hdhomerun = {
      host = mkOption {
        type = types.nullOr (types.strMatching "[A-Za-z0-9.:_-]+|\\[[0-9A-Fa-f:]+]");
        default = null;
        example = "10.20.30.9";
        description = "The tuner's address or name. Either this or {option}`deviceId`.";
      };
      deviceId = mkOption {
        type = types.nullOr (types.strMatching "[0-9A-Fa-f]{8}");
        default = null;
        example = "1038ABCD";
        description = ''
          The tuner's device id, to be looked up on the local network when a
          broadcast starts, again and again until it answers. Either this or
          {option}`host`.
        '';
      };
      openFirewall = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether the firewall lets in the answers of tuners where {option}`deviceId`
          is set: UDP from port 65001 to the ports that Linux gives to programs.
        '';
      };
    };

    broadcasts = mkOption {
      type = types.listOf broadcast;
      default = [ ];
      example = [
        {
          name = "kqed";
          channel = "9.1";
        }
      ];
      description = "What to publish.";
    };

    transcode = mkEnableOption "transcoding of what the tuner sends";
    ffmpeg = mkOption {
      type = types.nullOr types.package;
      default = null;
      example = lib.literalExpression "pkgs.ffmpeg-headless";
      description = "The package with the `ffmpeg` that ec-node finds on its path. Null: none but its own.";
    };
    hardwareTranscoding = mkEnableOption ''
      the graphics processor for ec-node, at {file}`/dev/dri`. What it needs besides
      is in {option}`hardware.graphics.extraPackages`, such as `pkgs.intel-media-driver`'';
    passthrough = mkEnableOption "publishing of what the tuner sends as it is";
    verifyTLS = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the relay's certificate is verified.";
    };

    flags = {
      transcode = mkOption {
        type = types.str;
        default = "--transcode";
        description = "What this version of ec-node calls the switch for {option}`transcode`.";
      };
      passthrough = mkOption {
        type = types.str;
        default = "--passthrough";
        description = "What this version of ec-node calls the switch for {option}`passthrough`.";
      };
      noVerifyTLS = mkOption {
        type = types.str;
        default = "--tls-disable-verify";
        description = "What this version of ec-node calls the switch that is set where {option}`verifyTLS` is not.";
      };
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More arguments to `ec-node wt-publish`, for all broadcasts.";
    };
  };

  config = mkIf cfg.enable {
    assertions = import ./assertions.nix cfg;

    hardware = mkIf cfg.hardwareTranscoding { graphics.enable = lib.mkDefault true; };

    systemd.services = lib.listToAttrs (
      map (broadcast: lib.nameValuePair "ec-node-${broadcast.name}" (service broadcast)) cfg.broadcasts
    );

    # The question goes to everybody, so that the firewall does not take a tuner's
    # answer for one. It comes from the tuners' port to one that Linux chose, from
    # net.ipv4.ip_local_port_range.
    networking.firewall = mkIf (cfg.hdhomerun.deviceId != null && cfg.hdhomerun.openFirewall) (
      if config.networking.nftables.enable then
        { extraInputRules = "udp sport 65001 udp dport 32768-60999 accept"; }
      else
        {
          extraCommands = "iptables -A nixos-fw -p udp --sport 65001 --dport 32768:60999 -j nixos-fw-accept";
        }
    );
  };
}

# The modules' logic that needs no nixpkgs: command lines, scripts, and what the
# modules have against a configuration.
let
  netboot = overrides: {
    listenIP = "10.20.30.2";
    interface = "enp1s0";
    hostname = null;
    httpPort = 80;
    httpAllowedCIDRs = [ ];
    filesUrl = null;
    peers = [ ];
    chainTokenFile = null;
    tftpBootFilename = "ec-ipxe.efi";
    statusAddress = "127.0.0.1:8077";
    statusHostnames = [ ];
    keep = 3;
    rings = { };
  }
  // overrides
  // {
    proxyDhcp = {
      enable = false;
      subnet = null;
    }
    // (overrides.proxyDhcp or { });
    release = {
      host = "git.every.channel";
      repo = "every/channel";
      tag = null;
      tokenFile = null;
      allowedSigners = [ ];
      signer = null;
      maxAge = null;
      tarball = null;
    }
    // (overrides.release or { });
    ipxe = {
      embedded = true;
      file = null;
      url = null;
      hash = null;
    }
    // (overrides.ipxe or { });
  };
  commands = overrides: import ../modules/ec-netboot/command.nix (netboot overrides);

  node =
    overrides:
    {
      package = "ec-node";
      relay = "https://relay.every.channel/anon";
      hdhomerun = {
        host = "10.20.30.9";
        deviceId = null;
      };
      broadcasts = [ kqed ];
      transcode = false;
      passthrough = false;
      verifyTLS = true;
      flags = {
        transcode = "--transcode";
        passthrough = "--passthrough";
        noVerifyTLS = "--tls-disable-verify";
      };
      extraArgs = [ ];
    }
    // overrides;
  kqed = {
    name = "kqed";
    channel = "9.1";
    extraArgs = [ "--last" ];
  };

  failed = assertions: map (a: a.message) (builtins.filter (a: !a.assertion) assertions);
  wrongNetboot = overrides: failed (commands overrides).assertions;
  wrongNode = overrides: failed (import ../modules/ec-node/assertions.nix (node overrides));

  full = commands {
    hostname = "boot.every.channel";
    httpPort = 8080;
    httpAllowedCIDRs = [
      "10.20.30.0/24"
      "10.20.31.0/24"
    ];
    chainTokenFile = "/var/lib/secrets/chain-token";
    filesUrl = "http://cache.lan:8080";
    peers = [
      "10.20.30.3"
      "boot3.lan:8080"
    ];
    statusHostnames = [ "boot-status.lan" ];
    keep = 5;
    proxyDhcp = {
      enable = true;
      subnet = "10.20.30.0/24";
    };
    release.tag = "boot-v2026.02.28";
    rings = {
      canary = {
        releaseTag = "boot-v2026.03.01";
        macs = [ "00:11:22:33:44:55" ];
      };
      lab = {
        releaseTag = "boot-v2026.03.01";
        macs = [ "00-11-22-33-44-66" ];
      };
    };
  };
  paths = {
    stateDir = "/var/lib/netboot";
    ringsFile = "/etc/rings.yaml";
  };
in
{
  serve = full.serve (
    paths
    // {
      ipxeDir = "/ipxe";
      machinesFile = "/var/lib/serve/machines.json";
    }
  );
  stage = full.stage (paths // { allowedSignersFile = "/etc/allowed_signers"; });
  stageLatest =
    (commands {
      release = {
        allowedSigners = [ "release@every.channel ssh-ed25519 AAAA" ];
        signer = "release@every.channel";
        maxAge = "720h";
      };
      rings.canary = {
        releaseTag = "boot-v2026.03.01";
        macs = [ "00:11:22:33:44:55" ];
      };
    }).stage
      (paths // { ringsFile = null; allowedSignersFile = "/etc/allowed_signers"; });
  stageFolder =
    (commands {
      release = {
        host = "file:///srv/releases";
        repo = null;
      };
    }).stage
      (paths // { ringsFile = null; allowedSignersFile = null; });
  stageTarball =
    (commands {
      release = {
        host = null;
        repo = null;
        tarball = "/srv/bundle.tar.gz";
      };
    }).stage
      (paths // { ringsFile = null; allowedSignersFile = null; });
  rings = full.ringsYAML;
  script = (commands { httpPort = 8080; }).embeddedScript;
  # For tests that run it, which set options of their own.
  scriptFor = overrides: (commands overrides).embeddedScript;
  scriptWithToken = full.embeddedScript;
  scriptWithPeers =
    (commands {
      peers = [
        "10.20.30.3"
        "[fd00::3]:8080"
      ];
    }).embeddedScript;

  node = import ../modules/ec-node/command.nix (node {
    transcode = true;
    verifyTLS = false;
    extraArgs = [ "--all" ];
  }) kqed "http://10.20.30.9/auto/v9.1";

  wrong = {
    nothing = wrongNetboot { } ++ wrongNode { };
    netbootWithoutRelease = wrongNetboot {
      release = {
        host = null;
        repo = null;
      };
    };
    netbootWithoutRepo = wrongNetboot { release.repo = null; };
    netbootFromBoth = wrongNetboot { release.tarball = "/srv/bundle.tar.gz"; };
    netbootTarballWithRings = wrongNetboot {
      release = {
        host = null;
        repo = null;
        tarball = "/srv/bundle.tar.gz";
      };
      rings.canary = {
        releaseTag = "boot-v1";
        macs = [ ];
      };
    };
    netbootSignerOfNothing = wrongNetboot { release.signer = "release@every.channel"; };
    netbootAgeOfNothing = wrongNetboot { release.maxAge = "720h"; };
    netbootAgeOfATag = wrongNetboot {
      release = {
        allowedSigners = [ "release@every.channel ssh-ed25519 AAAA" ];
        tag = "boot-v1";
        maxAge = "720h";
      };
    };
    netbootTwoIPXEs = wrongNetboot { ipxe.file = "/srv/ipxe.efi"; };
    netbootNoIPXE = wrongNetboot { ipxe.embedded = false; };
    netbootWithoutHash = wrongNetboot {
      ipxe = {
        embedded = false;
        url = "https://boot.example/ec-ipxe.efi";
      };
    };
    netbootTwoRings = wrongNetboot {
      rings = {
        a = {
          releaseTag = "boot-v1";
          macs = [ "00:11:22:33:44:aa" ];
        };
        b = {
          releaseTag = "boot-v2";
          macs = [ "00-11-22-33-44-AA" ];
        };
      };
    };
    netbootStoredToken = wrongNetboot { release.tokenFile = "${builtins.storeDir}/x-token"; };
    nodeWithoutPackage = wrongNode { package = null; };
    nodeWithoutTuner = wrongNode {
      hdhomerun = {
        host = null;
        deviceId = null;
      };
    };
    nodeWithTwoTuners = wrongNode {
      hdhomerun = {
        host = "10.20.30.9";
        deviceId = "1038ABCD";
      };
    };
    nodeTwice = wrongNode {
      broadcasts = [
        kqed
        (kqed // { channel = "9.2"; })
      ];
    };
  };
}

# What the tests look at, as values that `nix eval --json` can print. Each is
# computed only when it is asked for.
{ nixpkgs }:
let
  outputs = import ./outputs.nix nixpkgs;
  inherit (outputs.nixpkgs) lib;

  # A machine with the modules of this flake.
  machine =
    module:
    outputs.nixpkgs.lib.nixosSystem {
      modules = [
        outputs.nixosModules.default
        {
          nixpkgs.hostPlatform = "x86_64-linux";
          system.stateVersion = "24.11";
          boot.loader.grub.enable = false;
        }
        module
      ];
    };
  disks = names: {
    fileSystems = lib.genAttrs names (name: {
      device = "/dev/disk/by-label/${builtins.replaceStrings [ "/" ] [ "-" ] name}";
      fsType = "ext4";
    });
  };

  failed = machine: map (a: a.message) (lib.filter (a: !a.assertion) machine.config.assertions);
  # Ours, and not what NixOS says of a machine without a boot loader.
  warnings = machine: lib.filter (lib.hasInfix "services.every-channel") machine.config.warnings;

  runner = settings: {
    services.every-channel.runner = {
      enable = true;
    }
    // settings;
  };
  node = settings: {
    imports = [ (disks [ "/" ]) ];
    services.every-channel.ec-node = {
      enable = true;
      package = machine0.pkgs.hello;
      relay = "https://relay.every.channel/anon";
      hdhomerun.host = "10.20.30.9";
      broadcasts = [
        {
          name = "kqed";
          channel = "9.1";
        }
      ];
    }
    // settings;
  };
  netboot = settings: {
    imports = [ (disks [ "/" ]) ];
    services.every-channel.netboot = {
      enable = true;
      listenIP = "10.20.30.2";
      interface = "enp1s0";
      release = {
        host = "git.every.channel";
        repo = "every/channel";
      };
    }
    // settings;
  };
  machine0 = machine (disks [ "/" ]);
  onDisks = [
    "/"
    "/nix"
    "/boot"
    "/var"
  ];

  nodeByHost = machine (node { });
  nodeByDevice = machine (node {
    hdhomerun.deviceId = "1038abcd";
    verifyTLS = false;
    transcode = true;
    extraArgs = [ "--bitrate 5 %" ];
  });
  nodeOnGraphics = machine (node {
    transcode = true;
    ffmpeg = machine0.pkgs.ffmpeg-headless;
    hardwareTranscoding = true;
  });
  nodeByDeviceWithNFTables = machine {
    imports = [ (node { hdhomerun.deviceId = "1038abcd"; }) ];
    networking.nftables.enable = true;
  };
  netbootPlain = machine (netboot { });
  netbootFull = machine (netboot {
    hostname = "boot.every.channel";
    httpAllowedCIDRs = [
      "10.20.30.0/24"
      "10.20.31.0/24"
    ];
    chainTokenFile = "/var/lib/secrets/chain-token";
    filesUrl = "http://cache.lan:8080";
    peers = [ "10.20.30.3" ];
    statusHostnames = [ "boot-status.lan" ];
    keep = 5;
    alertRules = true;
    proxyDhcp = {
      enable = true;
      subnet = "10.20.30.0/24";
    };
    release = {
      host = "http://forge.lan:3000";
      repo = "every/channel";
      tag = "boot-v2026.02.28";
      tokenFile = "/var/lib/secrets/forge-token";
      allowedSigners = [ "release@every.channel ssh-ed25519 AAAA" ];
    };
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
    ipxe.architectures = [
      "x86_64"
      "aarch64"
    ];
  });
  netbootFile = machine (netboot {
    release.tarball = "/srv/ec-runner-x86_64-netboot-boot-v1.tar.gz";
    ipxe.file = "/srv/ipxe/ec-ipxe.efi";
    authorizedKeys = [ "ssh-ed25519 AAAA operator" ];
  });

  runnerOnDisks =
    systemdInitrd:
    machine {
      imports = [
        (disks onDisks)
        (runner { overlayRoot.size = "2g"; })
      ];
      boot.initrd.systemd.enable = systemdInitrd;
    };
  scripted = runnerOnDisks false;
  systemd = runnerOnDisks true;

  actions = {
    enable = true;
    url = "https://git.every.channel";
    tokenFile = "/var/lib/secrets/actions-token";
    name = "nuc-1";
  };
  uuid = "33834eef-e758-48c4-a676-1745426747aa";
  runnerOf = settings: {
    imports = [
      (disks onDisks)
      (runner { actions = actions // settings; })
    ];
  };
  # Registered with a token, as Gitea and older releases of Forgejo have it.
  actionsRegistered = machine (runnerOf { });
  # With a UUID, where nixpkgs has no module for it: with the runner of 24.11, and
  # with one that reads connections.
  actionsOwn = machine (runnerOf { inherit uuid; });
  actionsOwnNewer = machine (runnerOf {
    inherit uuid;
    package = machine0.pkgs.forgejo-runner // { version = "12.13.2"; };
  });
  # Where nixpkgs has it.
  actionsForgejo = machine {
    imports = [
      ./forgejo-runner.nix
      (runnerOf { inherit uuid; })
    ];
  };

  bootKeys = machine {
    imports = [
      (disks onDisks)
      (runner {
        bootKeys = {
          enable = true;
          url = "http://10.20.30.2/authorized_keys";
        };
      })
    ];
  };
  builders = machine {
    imports = [
      (disks onDisks)
      (runner {
        builders."arm.every.channel" = {
          systems = [ "aarch64-linux" ];
          sshKey = "/var/lib/secrets/builder-key";
          hostKey = "ssh-ed25519 AAAA";
        };
      })
    ];
  };

  text = machine: unit: machine.config.systemd.units.${unit}.text;
  firewall = machine: {
    inherit (machine.config.networking.firewall) allowedTCPPorts allowedUDPPorts extraInputRules;
    # NixOS has commands of its own.
    extraCommands = lib.filter (lib.hasInfix "65001") (
      lib.splitString "\n" machine.config.networking.firewall.extraCommands
    );
    interfaces = lib.mapAttrs (_: interface: {
      inherit (interface) allowedTCPPorts allowedUDPPorts;
    }) machine.config.networking.firewall.interfaces;
  };
in
{
  derivations =
    let
      build = name: outputs.nixosConfigurations.${name}.config.system.build;
    in
    {
      ec-runner-aarch64 = (build "ec-runner-aarch64").toplevel.drvPath;
      ec-runner-x86_64 = (build "ec-runner-x86_64").toplevel.drvPath;
      # The systems are parts of the images.
      ec-runner-aarch64-netboot = (build "ec-runner-aarch64-netboot").netboot.drvPath;
      ec-runner-x86_64-netboot = (build "ec-runner-x86_64-netboot").netboot.drvPath;
      ec-runner-x86_64-iso = (build "ec-runner-x86_64-iso").isoImage.drvPath;
      ec-runner-aarch64-sdimage = (build "ec-runner-aarch64-sdimage").sdImage.drvPath;
      package-x86_64 = outputs.packages.x86_64-linux.runner-images.drvPath;
      package-aarch64 = outputs.packages.aarch64-linux.runner-images.drvPath;
      test-overlay-root = outputs.checks.x86_64-linux.overlay-root.drvPath;
      test-install = outputs.checks.x86_64-linux.install.drvPath;
      test-netboot = outputs.checks.x86_64-linux.netboot.drvPath;
      test-netboot-bios = outputs.checks.x86_64-linux.netboot-bios.drvPath;
      test-netboot-rings = outputs.checks.x86_64-linux.netboot-rings.drvPath;
      shell = outputs.devShells.x86_64-linux.default.drvPath;
      boot-server = netbootFull.config.system.build.toplevel.drvPath;
    };

  # The scripts of the virtual machine tests, and the machines that they are about.
  vmTests =
    let
      look = config: {
        units = lib.mapAttrs (_: unit: unit.text or "") config.systemd.units;
        packages = map lib.getName config.environment.systemPackages;
      };
      node =
        config:
        look config
        // {
          address = config.networking.primaryIPAddress;
          listens = config.services.every-channel.netboot.listenIP or null;
          interfaces = lib.mapAttrs (_: interface: map (ip: ip.address) interface.ipv4.addresses) config.networking.interfaces;
          interface = config.services.every-channel.netboot.interface or null;
        };
      image = name: look outputs.nixosConfigurations.${name}.config;
      netbooted = image "ec-runner-x86_64-netboot";
    in
    lib.mapAttrs
      (_: test: {
        script = builtins.unsafeDiscardStringContext test.config.testScriptString;
        machines =
          lib.mapAttrs (_: node) test.nodes
          # Their configuration is the image's.
          // lib.optionalAttrs (test.nodes ? client) {
            client = netbooted;
            canary = netbooted;
          }
          // lib.optionalAttrs (test.nodes == { }) {
            installer = image "ec-runner-x86_64-iso";
            runner = image "ec-runner-x86_64";
          };
      })
      (removeAttrs outputs.checks.x86_64-linux [ "runner-images" ]);

  imageNames = {
    iso = outputs.nixosConfigurations.ec-runner-x86_64-iso.config.system.build.isoImage.name;
    sdimage = outputs.nixosConfigurations.ec-runner-aarch64-sdimage.config.system.build.sdImage.name;
  };
  # The command that makes the netboot bundle's folder.
  bundles = lib.genAttrs [ "x86_64" "aarch64" ] (
    architecture: outputs.nixosConfigurations."ec-runner-${architecture}-netboot".config.system.build.netboot.buildCommand
  );

  units = {
    "ec-node-kqed-by-host.service" = text nodeByHost "ec-node-kqed.service";
    "ec-node-kqed-by-device.service" = text nodeByDevice "ec-node-kqed.service";
    "netboot-plain.service" = text netbootPlain "every-channel-netboot.service";
    "netboot-plain-stage.service" = text netbootPlain "every-channel-netboot-stage.service";
    "netboot-plain-stage.timer" = text netbootPlain "every-channel-netboot-stage.timer";
    "netboot-full.service" = text netbootFull "every-channel-netboot.service";
    "netboot-plain-http.socket" = text netbootPlain "every-channel-netboot-http.socket";
    "netboot-plain-status.socket" = text netbootPlain "every-channel-netboot-status.socket";
    "netboot-plain-tftp.socket" = text netbootPlain "every-channel-netboot-tftp.socket";
    "netboot-full-http.socket" = text netbootFull "every-channel-netboot-http.socket";
    "netboot-full-status.socket" = text netbootFull "every-channel-netboot-status.socket";
    "netboot-full-tftp.socket" = text netbootFull "every-channel-netboot-tftp.socket";
    "netboot-full-proxy-dhcp.socket" = text netbootFull "every-channel-netboot-proxy-dhcp.socket";
    "netboot-full-pxe.socket" = text netbootFull "every-channel-netboot-pxe.socket";
    "netboot-full-stage.service" = text netbootFull "every-channel-netboot-stage.service";
    "netboot-file.service" = text netbootFile "every-channel-netboot.service";
    "netboot-file-stage.service" = text netbootFile "every-channel-netboot-stage.service";
    "overlay-root.service" = systemd.config.boot.initrd.systemd.units."overlay-root.service".text;
    "overlay-root-check.service" = text systemd "overlay-root-check.service";
    "systemd-remount-fs.service" = text systemd "systemd-remount-fs.service";
    "actions-registered.service" = text actionsRegistered "gitea-runner-every\\x2dchannel.service";
    "actions-own.service" = text actionsOwn "every-channel-actions.service";
    "actions-own-newer.service" = text actionsOwnNewer "every-channel-actions.service";
    "actions-forgejo.service" = text actionsForgejo "forgejo-runner-every\\x2dchannel.service";
    "actions-token.service" = text actionsOwn "every-channel-actions-token.service";
    "boot-keys.service" = text bootKeys "every-channel-boot-keys.service";
    "ec-node-kqed-on-graphics.service" = text nodeOnGraphics "ec-node-kqed.service";
  };
  scriptedCommands = scripted.config.boot.initrd.postMountCommands;
  stateFolder = lib.mapAttrs (
    _: rules: { inherit (rules.d) mode user group; }
  ) netbootPlain.config.systemd.tmpfiles.settings.every-channel-netboot;
  bootServerUsers = lib.mapAttrs (_: user: user.group) (
    lib.filterAttrs (name: _: lib.hasPrefix "every-channel-netboot" name) netbootPlain.config.users.users
  );
  timers = {
    pinned = netbootFull.config.systemd.timers ? every-channel-netboot-stage;
    tarball = netbootFile.config.systemd.timers ? every-channel-netboot-stage;
  };
  rings = netbootFull.config.environment.etc."every-channel/netboot-rings.yaml".source.text;
  alertRules = lib.mapAttrs (_: system: map (name: baseNameOf "${system.config.environment.etc.${name}.source}") (
    lib.filter (lib.hasPrefix "every-channel/netboot-alerts") (lib.attrNames system.config.environment.etc)
  )) { inherit netbootPlain netbootFull; };
  firewalls = {
    nodeByHost = firewall nodeByHost;
    nodeByDevice = firewall nodeByDevice;
    nodeByDeviceWithNFTables = firewall nodeByDeviceWithNFTables;
    netbootPlain = firewall netbootPlain;
    netbootFull = firewall netbootFull;
  };
  initrds = lib.mapAttrs (_: system: system.config.system.build.initialRamdisk.drvPath) {
    inherit scripted systemd;
  };

  appliance =
    let
      inherit (systemd) config;
    in
    {
      journal = config.services.journald.settings.Journal.Storage or config.services.journald.storage;
      gc = { inherit (config.nix.gc) automatic dates options; };
      entries = config.boot.loader.systemd-boot.configurationLimit;
      passwords = config.services.openssh.settings.PasswordAuthentication;
      hostKeys = map (key: key.path) config.services.openssh.hostKeys;
      features = config.nix.settings.experimental-features;
      flake = lib.hasInfix "mount --bind ${builtins.unsafeDiscardStringContext outputs.outPath} /etc/every-channel/flake\n" config.systemd.services.every-channel-flake.script;
      passwordHashes = lib.filter (hash: hash != null && hash != "!") (
        lib.concatMap (user: [
          user.hashedPassword
          user.initialHashedPassword
          user.initialPassword
          user.password
        ]) (lib.attrValues config.users.users)
      );
    };

  actionsForgejo = {
    inherit (actionsForgejo.config.services.forgejo-runner.instances.every-channel) settings secrets;
    # It is run by one unit alone.
    units = lib.mapAttrs (_: system: lib.filter (
      name: lib.hasInfix "runner" name || lib.hasInfix "channel-actions" name
    ) (lib.attrNames system.config.systemd.services)) {
      inherit
        actionsRegistered
        actionsOwn
        actionsForgejo
        ;
    };
  };

  installer =
    let
      iso = outputs.nixosConfigurations.ec-runner-x86_64-iso;
      site = iso.extendModules { modules = [ { services.every-channel.runner.flakeSource = lib.mkForce ./sandbox; } ]; };
      installer = system: system.config.services.every-channel.installer;
      autologin = name: toString outputs.nixosConfigurations.${name}.config.services.getty.autologinUser;
      text = path: builtins.unsafeDiscardStringContext (toString path);
    in
    {
      autologin = autologin "ec-runner-x86_64-iso";
      netbooted = autologin "ec-runner-x86_64-netboot";
      installed = autologin "ec-runner-x86_64";
      passwords = iso.config.services.openssh.settings.PasswordAuthentication;
      keyFiles = lib.sort (a: b: a < b) iso.config.services.openssh.authorizedKeysFiles;
      system = text (installer iso).system;
      sameSystem =
        text (installer iso).system
        == text outputs.nixosConfigurations.ec-runner-x86_64.config.system.build.toplevel;
      inImage = lib.elem (text (installer iso).system) (map text iso.config.system.extraDependencies);
      ofSite = toString (installer site).system;
      siteFlake = (installer site).flake;
    };

  flakeInputs =
    let
      # A flake with two inputs, one of which has one itself.
      store = name: builtins.toFile name name;
      flake = {
        outPath = "${./sandbox}";
        inputs = {
          a.outPath = store "a";
          b = {
            outPath = store "b";
            inputs.c = {
              outPath = store "c";
              # Loops are nothing unusual.
              inputs.b = flake.inputs.b;
            };
          };
        };
      };
      dependencies =
        settings:
        map (path: builtins.unsafeDiscardStringContext (toString path))
          (machine {
            imports = [
              (disks onDisks)
              (runner settings)
            ];
          }).config.system.extraDependencies;
    in
    {
      published = dependencies { };
      off = dependencies { flakeInputs = false; };
      ofFlake = dependencies { flakeSource = flake; };
      ofPath = dependencies { flakeSource = flake.outPath; };
      want = map builtins.unsafeDiscardStringContext [
        flake.inputs.a.outPath
        flake.inputs.b.outPath
        flake.inputs.b.inputs.c.outPath
      ];
    };

  lean =
    let
      inherit (outputs.nixosConfigurations.ec-runner-x86_64-netboot) config;
    in
    {
      packages = lib.unique (map lib.getName config.environment.systemPackages);
      inherit (config.boot) kernelParams;
      documentation = config.documentation.enable;
      fonts = config.fonts.fontconfig.enable;
      microcode = lib.genAttrs [ "x86_64" "aarch64" ] (
        architecture:
        let
          inherit (outputs.nixosConfigurations."ec-runner-${architecture}-netboot".config.hardware) cpu;
        in
        cpu.intel.updateMicrocode && cpu.amd.updateMicrocode
      );
    };

  # As with a nixpkgs that has no newer Go.
  packageWithoutGo =
    ((import (nixpkgs + "/default.nix") { system = "x86_64-linux"; }).callPackage ../package.nix { }).drvPath;

  builders =
    let
      inherit (builders.config) nix programs;
    in
    {
      inherit (nix) distributedBuilds;
      substitutes = nix.settings.builders-use-substitutes;
      trusted = nix.settings.trusted-users;
      machines = map (machine: {
        inherit (machine)
          hostName
          protocol
          systems
          sshUser
          sshKey
          maxJobs
          supportedFeatures
          ;
      }) nix.buildMachines;
      hosts = lib.mapAttrs (_: host: host.publicKey) programs.ssh.knownHosts;
    };

  # The messages of the assertions that fail.
  wrong =
    lib.mapAttrs (_: module: failed (machine module)) {
      nothing = {
        imports = [
          (disks onDisks)
          (runner { })
        ];
      };
      bootWithoutNix = {
        imports = [
          (disks [
            "/"
            "/boot"
          ])
          (runner { })
        ];
      };
      bindNix = {
        imports = [
          (disks [
            "/"
            "/boot"
          ])
          (runner { })
        ];
        fileSystems."/nix" = {
          device = "/persist/nix";
          fsType = "none";
          options = [ "bind" ];
        };
      };
      actionsWithoutUUID = {
        imports = [ (runnerOf { }) ];
        # As if nixpkgs did without registration tokens.
        disabledModules = [ "services/continuous-integration/gitea-actions-runner.nix" ];
      };
      actionsUUIDForGitea = runnerOf {
        inherit uuid;
        package = machine0.pkgs.gitea-actions-runner;
      };
      actionsTokenInStore = runnerOf { tokenFile = "${builtins.storeDir}/x-token"; };
      bootKeysOff = {
        imports = [
          (disks onDisks)
          (runner { bootKeys.url = "http://10.20.30.2/authorized_keys"; })
        ];
      };
      builderKeyInStore = {
        imports = [
          (disks onDisks)
          (runner {
            builders.arm = {
              systems = [ "aarch64-linux" ];
              sshKey = "${builtins.storeDir}/x-key";
              hostKey = "ssh-ed25519 AAAA";
            };
          })
        ];
      };
      node = node {
        package = null;
        hdhomerun = { };
      };
      netboot = netboot {
        release = { };
        ipxe.url = "https://boot.example/ec-ipxe.efi";
      };
    };
  warned =
    let
      warned = names: settings: warnings (machine { imports = [ (disks names) (runner settings) ]; });
    in
    {
      nixOnRoot = warned [ "/" ] { };
      all = warned onDisks { };
      flakePath = warned onDisks { flakeSource = ./sandbox; };
      flakePathAlone = warned onDisks {
        flakeSource = ./sandbox;
        flakeInputs = false;
      };
    };

  # Values that the options' types refuse.
  refused =
    let
      options = module: (machine module).config.services.every-channel;
    in
    {
      channel =
        (options (node {
          broadcasts = [
            {
              name = "kqed";
              channel = "9-1";
            }
          ];
        })).ec-node.broadcasts;
      interface = (options (netboot { interface = "a long name"; })).netboot.interface;
      files = (options (netboot { filesUrl = "cache.lan"; })).netboot.filesUrl;
      peer = (options (netboot { peers = [ "http://boot2.lan" ]; })).netboot.peers;
      size = (options (runner { overlayRoot.size = "lots"; })).runner.overlayRoot.size;
      cidr = (options (netboot { httpAllowedCIDRs = [ "10.20.30.0" ]; })).netboot.httpAllowedCIDRs;
      secret = (options (netboot { chainTokenFile = ./evaluate.nix; })).netboot.chainTokenFile;
      mac =
        (options (netboot {
          rings.a = {
            releaseTag = "boot-v1";
            macs = [ "00:11" ];
          };
        })).netboot.rings;
      uuid = (options (runnerOf { uuid = "my-runner"; })).runner.actions.uuid;
      unknown = (options (runner { overlayroot = true; })).runner;
    };

  packageSource = "${outputs.packages.x86_64-linux.runner-images.src}";

  options = import ../options.nix {
    inherit lib;
    modules.imports = [
      outputs.nixosModules.default
      outputs.nixosModules.ec-installer
    ];
  };
}

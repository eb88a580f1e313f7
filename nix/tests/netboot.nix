# A boot server boots other machines on the network of a gateway.
#
# The gateway knows one boot file and sends it to all, as a UniFi gateway does; with
# rings it knows none, and the server answers by ProxyDHCP. Then there is a chain
# token too, one of the machines is in a ring with another release, and the server
# hands out SSH keys.
{ self, variant }:
{
  lib,
  nodes,
  pkgs,
  ...
}:
let
  inherit (variant) name;
  bios = variant.bios or false;
  rings = variant.rings or false;

  # By the driver, nodes are numbered in the order of their names.
  address = nodes.server.networking.primaryIPAddress;
  network = lib.concatStringsSep "." (lib.take 3 (lib.splitString "." address));
  # What qemu-common.nix takes differs between releases of nixpkgs.
  inherit (pkgs.callPackage (pkgs.path + "/nixos/lib/qemu-common.nix") { }) qemuNicMac;
  macOf = node: qemuNicMac 1 node.virtualisation.test.nodeNumber;

  current = "boot-v2026.01.01";
  newer = "boot-v2026.02.01";
  bundle = "ec-runner-x86_64-netboot";
  publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator";

  booted =
    hostName:
    self.nixosConfigurations.ec-runner-x86_64-netboot.extendModules {
      modules = [
        ./instrumented.nix
        {
          networking.hostName = lib.mkForce hostName;
          netboot.squashfsCompression = "zstd -Xcompression-level 1";
          services.every-channel.runner.bootKeys.url = lib.mkIf rings "http://${address}/authorized_keys";
        }
      ];
    };
  # A folder with releases, each of a machine that is called as its tag.
  releases =
    pkgs.runCommand "releases" { nativeBuildInputs = [ self.packages.x86_64-linux.runner-images ]; }
      (
        ''
          export HOME=$TMPDIR
        ''
        + lib.concatMapStrings (tag: ''
          runner-images package ${
            (booted (lib.replaceStrings [ "." ] [ "-" ] tag)).config.system.build.netboot
          } --name ${bundle} --release-tag ${tag} --output-dir ${tag}
          runner-images publish ${tag}/* --release-tag ${tag} --forge-url file://$out
        '') ([ current ] ++ lib.optional rings newer)
      );

  client = {
    virtualisation = {
      memorySize = 4096;
      # Nothing of this configuration is booted: there is no disk, and one card.
      diskImage = null;
      directBoot.enable = false;
      useEFIBoot = !bios;
      qemu = {
        networkingOptions = lib.mkForce [ ];
        options = [ "-boot order=n" ];
      };
    };
  };
in
{
  inherit name;

  nodes = {
    inherit client;

    gateway = {
      services.dnsmasq = {
        enable = true;
        resolveLocalQueries = false;
        settings = {
          port = 0;
          interface = "eth1";
          dhcp-range = "${network}.100,${network}.200";
        }
        // lib.optionalAttrs (!rings) {
          dhcp-boot = "${if bios then "undionly.kpxe" else "ec-ipxe.efi"},,${address}";
        };
      };
      networking.firewall.interfaces.eth1.allowedUDPPorts = [ 67 ];
    };

    server =
      { nodes, ... }:
      {
        imports = [ self.nixosModules.ec-netboot ];
        virtualisation.memorySize = 2048;

        services.every-channel.netboot = {
          enable = true;
          listenIP = address;
          interface = "eth1";
          httpAllowedCIDRs = [ "${network}.0/24" ];
          release = {
            host = "file://${releases}";
            tag = current;
          };
        }
        // lib.optionalAttrs rings {
          authorizedKeys = [ publicKey ];
          chainTokenFile = "/etc/chain-token";
          proxyDhcp.enable = true;
          rings.canary = {
            releaseTag = newer;
            macs = [ (macOf nodes.canary) ];
          };
        };
        # A test has no secrets.
        environment.etc."chain-token" = lib.mkIf rings { text = "a-secret-word"; };
        environment.systemPackages = [ pkgs.curl ];
      };
  }
  // lib.optionalAttrs rings { canary = client; };

  testScript = ''
    gateway.start()
    gateway.wait_for_unit("dnsmasq.service")
    server.start()
    server.wait_for_unit("every-channel-netboot.service")
    server.wait_until_succeeds("test $(readlink /var/lib/every-channel-netboot/current | xargs basename) = ${current}")
    server.succeed("curl --fail --silent http://${address}/healthz")
  ''
  + lib.optionalString rings ''
    server.fail("curl --fail --silent http://${address}/netboot.ipxe")
    server.succeed("curl --fail --silent http://${address}/a-secret-word/netboot.ipxe | grep '^kernel'")
    server.succeed("curl --fail --silent http://${address}/authorized_keys | grep operator")
  ''
  + ''

    client.start()
    client.wait_for_unit("multi-user.target")
    assert client.succeed("cat /proc/sys/kernel/hostname").strip() == "${lib.replaceStrings [ "." ] [ "-" ] current}"
    client.wait_for_unit("every-channel-flake.service")
    client.succeed("test -e /etc/every-channel/flake/flake.lock")
    client.succeed("runner-images version")
    assert client.succeed("findmnt -n -o FSTYPE /").strip() == "tmpfs"
    assert "0 loaded units listed" in client.succeed("systemctl --failed"), "a unit failed"
  ''
  + lib.optionalString rings ''
    client.wait_until_succeeds("grep operator /run/every-channel/authorized_keys.d/root")

    canary.start()
    canary.wait_for_unit("multi-user.target")
    assert canary.succeed("cat /proc/sys/kernel/hostname").strip() == "${lib.replaceStrings [ "." ] [ "-" ] newer}"
  ''
  + ''

    # A server that restarts serves what it served.
    server.shutdown()
    server.start()
    server.wait_for_unit("every-channel-netboot.service")
    server.succeed("curl --fail --silent http://${address}/healthz")
  '';
}

# A boot server boots a second machine: UEFI firmware asks a DHCP server that knows
# one boot file, as a UniFi gateway does, and gets iPXE, the release's script and
# the runner from the server.
self:
{ lib, pkgs, ... }:
let
  tag = "boot-v2026.01.01";
  address = "192.168.1.1";

  # A runner that the test's driver can talk to.
  booted = self.nixosConfigurations.ec-runner-x86_64-netboot.extendModules {
    modules = [
      (
        { modulesPath, ... }:
        {
          imports = [ "${modulesPath}/testing/test-instrumentation.nix" ];
          networking.hostName = lib.mkForce "booted";
          netboot.squashfsCompression = "zstd -Xcompression-level 1";
        }
      )
    ];
  };

  release = pkgs.runCommand "release" { nativeBuildInputs = [ self.packages.x86_64-linux.runner-images ]; } ''
    export HOME=$TMPDIR
    runner-images package ${booted.config.system.build.netboot} \
      --name ec-runner-x86_64-netboot --release-tag ${tag} --output-dir $out
  '';
in
{
  name = "netboot";

  nodes = {
    server = {
      imports = [ self.nixosModules.ec-netboot ];
      virtualisation.memorySize = 2048;
      networking.useDHCP = false;

      services.every-channel.netboot = {
        enable = true;
        listenIP = address;
        interface = "eth1";
        httpAllowedCIDRs = [ "192.168.1.0/24" ];
        release.tarball = "${release}/ec-runner-x86_64-netboot-${tag}.tar.gz";
      };

      services.dnsmasq = {
        enable = true;
        resolveLocalQueries = false;
        settings = {
          port = 0;
          interface = "eth1";
          dhcp-range = "192.168.1.100,192.168.1.200";
          dhcp-boot = "ec-ipxe.efi,,${address}";
        };
      };
      networking.firewall.interfaces.eth1.allowedUDPPorts = [ 67 ];
    };

    # The machine that boots. What its own configuration says is not used: it has
    # no boot loader, so the firmware tries the network.
    client = {
      virtualisation = {
        memorySize = 4096;
        directBoot.enable = false;
        useEFIBoot = true;
      };
    };
  };

  testScript = ''
    server.start()
    server.wait_for_unit("every-channel-netboot.service")
    server.wait_until_succeeds("readlink /var/lib/every-channel-netboot/current")
    server.succeed("curl --fail --silent http://${address}/healthz")

    client.start()
    client.wait_for_unit("multi-user.target")
    assert client.succeed("hostname").strip() == "booted"
    client.succeed("test -e /etc/every-channel/flake/flake.lock")
    client.succeed("runner-images version")
  '';
}

# The command lines of the boot server, each a list of words, and what is wrong
# with its options. It uses nothing of nixpkgs, so that a test evaluates it
# anywhere. Secrets are not here: they come as credentials.
cfg:
let
  flag = name: value: if value == null then [ ] else [ "--${name}" value ];
  switch = name: set: if set then [ "--${name}" ] else [ ];

  rings = builtins.attrValues (builtins.mapAttrs (name: ring: ring // { inherit name; }) cfg.rings);
  isAddress = builtins.match "[a-z]+://.*" cfg.release.host != null;

  option = "services.every-channel.netboot";
  given = builtins.filter (set: set) [
    cfg.ipxe.embedded
    (cfg.ipxe.file != null)
    (cfg.ipxe.url != null)
  ];
  macs = builtins.concatMap (ring: map normal ring.macs) rings;
  # One way to write a MAC address: small letters and colons.
  normal =
    builtins.replaceStrings
      [ "-" "A" "B" "C" "D" "E" "F" ]
      [ ":" "a" "b" "c" "d" "e" "f" ];
  stored = builtins.filter (file: file != null && inStore file) [
    cfg.chainTokenFile
    cfg.release.tokenFile
  ];
  inStore = file: builtins.substring 0 (builtins.stringLength builtins.storeDir) file == builtins.storeDir;
  repeated = builtins.filter (
    mac: builtins.length (builtins.filter (other: other == mac) macs) > 1
  ) macs;
in
{
  # ringsFile and allowedSignersFile are files' paths, or null.
  serve =
    {
      stateDir,
      ipxeDir,
      machinesFile,
      ringsFile,
    }:
    [
      "netboot"
      "serve"
      "--state-dir"
      stateDir
      "--machines-file"
      machinesFile
      "--listen-ip"
      cfg.listenIP
      "--interface"
      cfg.interface
    ]
    ++ flag "hostname" cfg.hostname
    ++ [
      "--http-port"
      (toString cfg.httpPort)
      "--ipxe-dir"
      ipxeDir
      "--tftp-boot-filename"
      cfg.tftpBootFilename
    ]
    ++ flag "files-url" cfg.filesUrl
    ++ builtins.concatMap (flag "peer") cfg.peers
    ++ builtins.concatMap (flag "http-allowed-cidr") cfg.httpAllowedCIDRs
    ++ flag "rings" ringsFile
    ++ switch "proxy-dhcp" cfg.proxyDhcp.enable
    ++ flag "proxy-dhcp-subnet" (if cfg.proxyDhcp.enable then cfg.proxyDhcp.subnet else null)
    ++ [
      "--status-address"
      cfg.statusAddress
    ]
    ++ builtins.concatMap (flag "status-hostname") cfg.statusHostnames;

  # A list of command lines: for the current release, then for that of each ring.
  stage =
    {
      stateDir,
      ringsFile,
      allowedSignersFile,
    }:
    let
      base = [
        "netboot"
        "stage"
        "--state-dir"
        stateDir
        "--keep"
        (toString cfg.keep)
      ]
      ++ flag "rings" ringsFile
      ++ flag "allowed-signers" allowedSignersFile
      ++ flag "signer" cfg.release.signer;
      fromForge = [
        "--forge-url"
        (if isAddress then cfg.release.host else "https://${cfg.release.host}")
      ]
      ++ flag "repository" cfg.release.repo;
      # A release that the configuration names may be older, and of any age.
      pinned = tag: flag "release-tag" tag ++ switch "allow-downgrade" (tag != null && allowedSignersFile != null);
      # Two rings may have one release.
      tags = builtins.attrNames (
        builtins.listToAttrs (
          map (ring: {
            name = ring.releaseTag;
            value = null;
          }) rings
        )
      );
    in
    if cfg.release.tarball != null then
      [ (base ++ flag "tarball" cfg.release.tarball) ]
    else
      [
        (
          base
          ++ fromForge
          ++ pinned cfg.release.tag
          ++ (if cfg.release.tag == null then flag "max-age" cfg.release.maxAge else [ ])
        )
      ]
      ++ map (tag: base ++ fromForge ++ pinned tag ++ [ "--switch=false" ]) tags;

  # What rings.yaml says. JSON is YAML too.
  ringsYAML = builtins.toJSON {
    rings = map (ring: {
      inherit (ring) name macs;
      release_tag = ring.releaseTag;
    }) rings;
  };

  assertions = [
    {
      assertion = cfg.release.tarball != null || cfg.release.host != null;
      message = "${option}.release: set host and repo, where the releases are, or tarball, a netboot bundle on this machine.";
    }
    {
      assertion = cfg.release.tarball == null || cfg.release.host == null;
      message = "${option}.release: both host and tarball are set. Set the one to boot from.";
    }
    {
      assertion =
        cfg.release.host == null
        || cfg.release.repo != null
        || builtins.match "file://.*" cfg.release.host != null;
      message = "${option}.release.repo is not set: the repository with the releases on ${toString cfg.release.host}, owner/name.";
    }
    {
      assertion = cfg.release.tarball == null || cfg.release.tag == null && cfg.rings == { };
      message = "${option}: release.tarball is one bundle without a tag, so release.tag and rings cannot be used with it.";
    }
    {
      assertion = cfg.release.allowedSigners != [ ] || cfg.release.signer == null && cfg.release.maxAge == null;
      message = "${option}.release: signer and maxAge are about what is signed. Set allowedSigners too.";
    }
    {
      assertion = cfg.release.maxAge == null || cfg.release.tag == null && cfg.release.tarball == null;
      message = "${option}.release.maxAge is about the latest release. Unset it, or tag and tarball.";
    }
    {
      assertion = builtins.length given == 1;
      message = "${option}.ipxe: set one of embedded, file and url; ${toString (builtins.length given)} are.";
    }
    {
      assertion = cfg.ipxe.url == null || cfg.ipxe.hash != null;
      message = "${option}.ipxe.hash is not set. Whatever ipxe.url has today, every machine would run; fix it: nix store prefetch-file URL";
    }
    {
      assertion = stored == [ ];
      message = "${option}: the secret ${builtins.head (stored ++ [ "" ])} is in the Nix store, where everybody can read it. Use the path of a file on the machine.";
    }
    {
      assertion = repeated == [ ];
      message = "${option}.rings: ${builtins.head (repeated ++ [ "" ])} is in two rings, or twice in one. Leave it in one.";
    }
  ];

  # The script inside iPXE. After a power cut the machines are up before the server,
  # so it goes on for some minutes before it leaves the machine to the next boot
  # device. Each try begins without images: iPXE hands every image to the kernel, in
  # front of the initrd, also the autoexec.ipxe that iPXE 2 loads from beside itself
  # although it has a script, and the kernel of a try that failed. With a chain token
  # the address of the release's script is a secret, which must not be in the Nix
  # store: the server writes the token into the autoexec.ipxe that it has by TFTP.
  embeddedScript =
    let
      # As the server's own scripts say what machine asks.
      identity = "?mac=\${netX/mac:hexhyp}&arch=\${buildarch}&platform=\${platform}";
      port = if cfg.httpPort == 80 then "" else ":${toString cfg.httpPort}";
      # An address of a peer by HTTP has a port perhaps, and one by TFTP has none.
      byHTTP = host: ''
        chain --autofree http://${host}/netboot.ipxe${identity} ||
        imgfree
      '';
      byTFTP = host: ''
        chain --autofree tftp://${host}/autoexec.ipxe ||
      '';
      withoutPort = peer: builtins.head (builtins.match "([^]:]+|[[][^]]+[]])(:[0-9]+)?" peer);
    in
    ''
      #!ipxe
      echo every.channel: booting from ${cfg.listenIP}
      set tries:int32 0
      :again
      imgfree
      dhcp || goto wait
    ''
    + (
      if cfg.chainTokenFile == null then
        builtins.concatStringsSep "" (map byHTTP ([ "${cfg.listenIP}${port}" ] ++ cfg.peers))
      else
        ""
    )
    + builtins.concatStringsSep "imgfree\n" (
      map byTFTP ([ cfg.listenIP ] ++ map withoutPort cfg.peers)
    )
    + ''
      :wait
      inc tries
      iseq ''${tries} 30 && exit 1 ||
      echo The boot server at ${cfg.listenIP} does not answer, trying again in 10 seconds
      sleep 10
      goto again
    '';
}

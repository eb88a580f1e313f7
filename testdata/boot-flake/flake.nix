# A flake without inputs whose netboot image really boots: a kernel of Debian's
# and a busybox that says so on the serial console and powers off.
#
# Who builds it copies this folder and puts beside flake.nix:
#
#   boot/vmlinuz   the kernel: .cache/tools/boot/share/vmlinuz
#   boot/busybox   a static busybox: .cache/tools/boot/bin/busybox
#   generation     a word that the kernel's command line and the initrd carry,
#                  to tell one release from another
#
# Names and layout of the output are those of NixOS: symlinks into the store,
# a kernel called bzImage, a script that refers to it.
{
  description = "A netboot image that says that it has booted";

  outputs =
    { self }:
    let
      busybox = "${./boot}/busybox";
      generation = builtins.head (builtins.match "([a-z0-9]+)\n?" (builtins.readFile ./generation));

      run =
        name: commands:
        derivation {
          inherit name;
          system = "x86_64-linux";
          builder = busybox;
          args = [
            "sh"
            "-euc"
            commands
          ];
        };

      # stage 1 and only stage: what the kernel starts from the initrd.
      init = builtins.toFile "init" ''
        #!/bin/busybox sh
        /bin/busybox mkdir -p /proc
        /bin/busybox mount -t proc proc /proc
        echo "boot test: generation ${generation} reached its init"
        echo "boot test: command line: $(/bin/busybox cat /proc/cmdline)"
        echo boot test: files: $(/bin/busybox ls /) end of files
        /bin/busybox poweroff -f
      '';

      initrd = run "initrd" ''
        ${busybox} mkdir -p root/bin root/dev root/proc "$out"
        ${busybox} cp ${busybox} root/bin/busybox
        ${busybox} cp ${init} root/init
        ${busybox} chmod 755 root/init root/bin/busybox
        cd root
        ${busybox} find . | ${busybox} sort | ${busybox} cpio -o -H newc | ${busybox} gzip -n >"$out/initrd"
      '';

      script = builtins.toFile "netboot.ipxe" ''
        #!ipxe
        # Use the cmdline variable to allow the user to specify custom kernel params
        kernel bzImage init=/init initrd=initrd loglevel=4 console=ttyS0 panic=1 no_timer_check generation=${generation} ''${cmdline}
        initrd initrd
        boot
      '';
    in
    {
      nixosConfigurations.ec-runner-x86_64-netboot.config.system.build.netboot = run "netboot" ''
        ${busybox} mkdir "$out"
        ${busybox} ln -s ${./boot}/vmlinuz "$out/bzImage"
        ${busybox} ln -s ${initrd}/initrd "$out/initrd"
        ${busybox} ln -s ${script} "$out/netboot.ipxe"
      '';
    };
}

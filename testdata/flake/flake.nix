# Stand-ins for the images of a NixOS flake, for the tests and the demo: the
# attribute paths, the folders and the file names are those of NixOS, the
# contents are not. It has no inputs and builds offline in a moment; scripts/with-nix
# gives it a Nix and the few programs that its builders run. The aarch64
# images are built on x86_64 too.
#
# Files put beside this one are built in, so that an image really boots:
# boot/kernel and boot/initrd.
{
  description = "Stand-ins for runner images";

  outputs =
    { self }:
    let
      label = "26.05.20260228.b18a4b9"; # NixOS: release, date, revision
      linux = "linux-6.18.13";

      build =
        name: script: attributes:
        derivation (
          {
            inherit name;
            system = "x86_64-linux";
            builder = "/bin/sh";
            args = [
              "-euc"
              script
            ];
            # Only /bin has something in it in the sandbox of scripts/with-nix.
            PATH = "/bin:/usr/bin:/run/current-system/sw/bin";
          }
          // attributes
        );

      # 64 KiB that hardly compress, and differ by name.
      noise =
        name:
        builtins.toFile "noise-${name}" (
          builtins.concatStringsSep "" (
            builtins.genList (n: builtins.hashString "sha512" "${name} ${toString n}") 512
          )
        );

      # Prints COUNT times the noise of NAME.
      repeat = name: count: "for block in $(seq ${toString count}); do cat ${noise name}; done";

      # A file of this flake's folder in place of a stand-in for it.
      contents =
        file: name: count:
        if builtins.pathExists file then "cat ${file}" else repeat name count;

      kernel =
        system: file:
        build linux ''
          mkdir $out
          { ${contents ./boot/kernel "${linux}-${system}" 8}; } > $out/${file}
          echo "ffffffff81000000 T _text" > $out/System.map
        '' { };

      ramdisk =
        system:
        build "initrd-${linux}" ''
          mkdir $out
          { ${contents ./boot/initrd "initrd-${system}" 48}; } > $out/initrd
        '' { };

      toplevel =
        name: system:
        build "nixos-system-${name}-${label}" ''
          mkdir $out
          echo ${system} > $out/system
          echo '#!/bin/sh' > $out/init
        '' { };

      ipxeScript =
        toplevel: file:
        build "netboot.ipxe" ''
          mkdir $out
          cp $textPath $out/netboot.ipxe
        '' {
          # Line by line what nixos/modules/installer/netboot/netboot.nix writes.
          text = ''
            #!ipxe
            # Use the cmdline variable to allow the user to specify custom kernel params
            # when chainloading this script from other iPXE scripts like netboot.xyz
            kernel ${file} init=${toplevel}/init initrd=initrd console=ttyS0 loglevel=4 lsm=landlock,yama,bpf ''${cmdline}
            initrd initrd
            boot
          '';
          passAsFile = [ "text" ];
        };

      # As symlinkJoin does it, with what Hydra wants to know.
      join =
        paths: file:
        build "netboot" ''
          mkdir -p $out/nix-support
          for path in $paths; do
            for file in $path/*; do ln -s $file $out/; done
          done
          for file in ${file} initrd netboot.ipxe; do
            echo "file $file $out/$file" >> $out/nix-support/hydra-build-products
          done
        '' { inherit paths; };

      isoImage =
        system:
        build "nixos-minimal-${label}-${system}.iso" ''
          mkdir -p $out/iso $out/nix-support
          {
            head -c 32768 /dev/zero
            printf '\001CD001\001'
            ${repeat "iso-${system}" 32}
          } > $out/iso/$name
          echo ${system} > $out/nix-support/system
          echo "file iso $out/iso/$name" > $out/nix-support/hydra-build-products
        '' { };

      # A frame of uncompressed blocks, which zstd unpacks.
      sdImage =
        system:
        build "nixos-image-sd-card-${label}-${system}.img.zst" ''
          mkdir -p $out/sd-image $out/nix-support
          {
            printf '\050\265\057\375\000\070'
            for block in $(seq 31); do
              printf '\000\000\010'; cat ${noise "sd-${system}"}
            done
            printf '\001\000\010'; cat ${noise "sd-${system}"}
          } > $out/sd-image/$name
          echo ${system} > $out/nix-support/system
          echo "file sd-image $out/sd-image/$name" > $out/nix-support/hydra-build-products
        '' { };

      # A configuration has what NixOS calls its products, and a toplevel.
      configuration =
        name: system: products:
        let
          system-toplevel = toplevel name system;
        in
        {
          config.system.build = {
            toplevel = system-toplevel;
          }
          // products system-toplevel;
        };

      netboot =
        {
          name,
          system,
          file,
          kernelPackage ? kernel system file,
          ramdiskPackage ? ramdisk system,
        }:
        configuration name system (
          toplevel: rec {
            kernel = kernelPackage;
            netbootRamdisk = ramdiskPackage;
            netbootIpxeScript = ipxeScript toplevel file;
            netboot = join [
              netbootRamdisk
              kernelPackage
              netbootIpxeScript
            ] file;
          }
        );

      x86_64 = "x86_64-linux";
      aarch64 = "aarch64-linux";
    in
    {
      nixosConfigurations = {
        ec-runner-x86_64-netboot = netboot {
          name = "ec-runner-x86_64-netboot";
          system = x86_64;
          file = "bzImage";
        };
        ec-runner-aarch64-netboot = netboot {
          name = "ec-runner-aarch64-netboot";
          system = aarch64;
          file = "Image";
        };
        ec-runner-x86_64-iso = configuration "ec-runner-x86_64-iso" x86_64 (_: {
          isoImage = isoImage x86_64;
        });
        ec-runner-aarch64-sdimage = configuration "ec-runner-aarch64-sdimage" aarch64 (_: {
          sdImage = sdImage aarch64;
        });

        # What goes wrong, each with the same attribute path as the real thing.

        # The initrd, on which the image depends, does not build.
        broken-dependency = netboot {
          name = "broken-dependency";
          system = x86_64;
          file = "bzImage";
          ramdiskPackage = build "initrd-${linux}-broken" ''
            for module in $(seq 40); do echo "copying module $module of 41"; done
            echo "modprobe: FATAL: Module r8169 not found in directory lib/modules/6.18.13" >&2
            exit 1
          '' { };
        };
        # The image itself does not.
        broken-iso = configuration "broken-iso" x86_64 (_: {
          isoImage = build "nixos-broken.iso" ''
            echo "xorriso : FAILURE : Cannot determine attributes of source file 'isolinux.bin'" >&2
            exit 5
          '' { };
        });
        # The disk fills up while it builds.
        full-disk = configuration "full-disk" x86_64 (_: {
          isoImage = build "nixos-full.iso" ''
            echo "mksquashfs: write failed because No space left on device" >&2
            exit 1
          '' { };
        });
        # It cannot be evaluated, as with an assertion of NixOS that failed.
        failed-assertion = configuration "failed-assertion" x86_64 (_: {
          netboot = throw ''

            Failed assertions:
            - The ‘fileSystems’ option does not specify your root file system.'';
        });
        # It tells that it has begun, and goes on for an hour.
        slow = configuration "slow" x86_64 (_: {
          isoImage = build "nixos-slow.iso" ''
            echo "compressing the squashfs"
            sleep 3600
          '' { };
        });
        # Other bytes every time, in an ISO or in the initrd of a netboot image.
        not-reproducible = configuration "not-reproducible" x86_64 (_: {
          isoImage = build "nixos-not-reproducible.iso" ''
            mkdir -p $out/iso
            head -c 16 /dev/urandom > $out/iso/$name
          '' { };
        });
        not-reproducible-netboot = netboot {
          name = "not-reproducible-netboot";
          system = x86_64;
          file = "bzImage";
          ramdiskPackage = build "initrd-${linux}-not-reproducible" ''
            mkdir $out
            head -c 16 /dev/urandom > $out/initrd
          '' { };
        };
        # It is to be built by a machine that does not exist.
        other-machine = configuration "other-machine" x86_64 (_: {
          isoImage = build "nixos-other-machine.iso" "echo > $out" { system = "pdp11-unix"; };
        });
        # It builds, and is no image: there is nothing to boot.
        without-kernel = netboot {
          name = "without-kernel";
          system = x86_64;
          file = "bzImage";
          kernelPackage = build "${linux}-without-image" ''
            mkdir $out
            echo "ffffffff81000000 T _text" > $out/System.map
          '' { };
        };
      };
    };
}

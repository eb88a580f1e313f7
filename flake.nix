{
  description = "NixOS boot images for the runners of every.channel: build, release and boot them";

  inputs.nixpkgs.url = "git+https://github.com/NixOS/nixpkgs?ref=nixos-26.05&shallow=1";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      eachSystem =
        make:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: make nixpkgs.legacyPackages.${system});

      runner =
        system: configuration:
        lib.nixosSystem {
          modules = [
            self.nixosModules.ec-runner
            configuration
            { nixpkgs.hostPlatform = system; }
          ];
        };

      # Built with this flake's nixpkgs: a host's own may have too old a Go.
      packageFor = pkgs: lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.runner-images;

      installed =
        system:
        self.nixosConfigurations."ec-runner-${lib.removeSuffix "-linux" system}".config.system.build.toplevel;
    in
    {
      nixosConfigurations = {
        ec-runner-aarch64 = runner "aarch64-linux" ./nix/configurations/installed.nix;
        ec-runner-x86_64 = runner "x86_64-linux" ./nix/configurations/installed.nix;
        ec-runner-aarch64-netboot = runner "aarch64-linux" ./nix/configurations/netboot.nix;
        ec-runner-x86_64-netboot = runner "x86_64-linux" ./nix/configurations/netboot.nix;
        ec-runner-x86_64-iso = runner "x86_64-linux" {
          imports = [
            self.nixosModules.ec-installer
            ./nix/configurations/iso.nix
          ];
        };
        ec-runner-aarch64-sdimage = runner "aarch64-linux" ./nix/configurations/sdimage.nix;
      };

      nixosModules = {
        ec-runner =
          { pkgs, ... }:
          {
            key = "every.channel/runner-images#ec-runner";
            imports = [ ./nix/modules/ec-runner ];
            services.every-channel.runner = {
              flakeSource = lib.mkDefault self;
              package = packageFor pkgs;
            };
          };
        ec-node = ./nix/modules/ec-node;
        ec-netboot =
          { pkgs, ... }:
          {
            key = "every.channel/runner-images#ec-netboot";
            imports = [ ./nix/modules/ec-netboot ];
            services.every-channel.netboot.package = packageFor pkgs;
          };
        ec-installer =
          {
            config,
            pkgs,
            ...
          }:
          let
            inherit (config.services.every-channel.runner) flakeSource;
          in
          {
            key = "every.channel/runner-images#ec-installer";
            imports = [
              self.nixosModules.ec-runner
              ./nix/modules/ec-installer
            ];
            # What is installed has to be what the flake in the image says.
            services.every-channel.installer.system =
              lib.mkIf (flakeSource != null && "${flakeSource}" == self.outPath) (
                lib.mkDefault (installed pkgs.stdenv.hostPlatform.system)
              );
          };
        default.imports = [
          self.nixosModules.ec-runner
          self.nixosModules.ec-node
          self.nixosModules.ec-netboot
        ];
      };

      packages = eachSystem (pkgs: rec {
        runner-images = pkgs.callPackage ./nix/package.nix { };
        default = runner-images;
      });

      apps = eachSystem (pkgs: rec {
        runner-images = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.runner-images;
          meta.description = "Build, release, verify, stage and serve boot images";
        };
        default = runner-images;
      });

      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree or pkgs.nixfmt-rfc-style);

      checks = eachSystem (
        pkgs:
        {
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) runner-images;
        }
        // import ./nix/tests { inherit pkgs self; }
      );
    };
}

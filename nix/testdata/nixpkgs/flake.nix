# A nixpkgs for tests, around another one that may lack what no runner needs, the
# manual and Haskell's packages, from which shellcheck and nixfmt are made; and
# that may be too old for the package's Go: nothing is built with it here.
{
  description = "nixpkgs without the manual and Haskell, and with a Go";

  inputs.whole.url = "github:NixOS/nixpkgs"; # tests override it

  outputs =
    { self, whole }:
    let
      lacking =
        final: previous:
        let
          stand-in =
            name:
            final.runCommand name {
              meta.mainProgram = name;
              passthru.compiler = final.stdenv.cc;
            } "mkdir $out";
        in
        {
          shellcheck = stand-in "shellcheck";
          shellcheck-minimal = stand-in "shellcheck";
          nixfmt-rfc-style = stand-in "nixfmt";
        }
        // whole.lib.genAttrs [ "buildGo125Module" "buildGo126Module" ] (
          name: previous.${name} or previous.buildGoModule
        );
      module = {
        nixpkgs.overlays = [ lacking ];
        documentation.nixos.enable = false;
      };
    in
    {
      lib = whole.lib.extend (
        _: previous: {
          nixosSystem =
            arguments: previous.nixosSystem (arguments // { modules = arguments.modules ++ [ module ]; });
        }
      );
      legacyPackages = builtins.mapAttrs (
        system: _:
        import whole {
          inherit system;
          overlays = [ lacking ];
        }
      ) whole.legacyPackages;
    };
}

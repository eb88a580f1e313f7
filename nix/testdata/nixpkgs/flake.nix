# A nixpkgs for tests, around another one that may lack what no runner needs: the
# manual, and Haskell's packages, from which shellcheck and nixfmt are made.
{
  description = "nixpkgs without the manual and Haskell";

  inputs.whole.url = "github:NixOS/nixpkgs"; # tests override it

  outputs =
    { self, whole }:
    let
      withoutHaskell =
        final: _:
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
        };
      module = {
        nixpkgs.overlays = [ withoutHaskell ];
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
          overlays = [ withoutHaskell ];
        }
      ) whole.legacyPackages;
    };
}

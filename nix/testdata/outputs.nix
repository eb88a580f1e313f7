# The outputs of this flake with a nixpkgs that is a folder, without copying that
# folder into a store as a flake's input would be.
#
# The nixpkgs may lack what no runner needs: the manual, and Haskell's packages,
# which shellcheck is one of.
nixpkgs:
let
  withoutHaskell = final: _: {
    shellcheck = final.runCommand "shellcheck" {
      meta.mainProgram = "shellcheck";
      passthru.compiler = final.stdenv.cc;
    } "mkdir $out";
    shellcheck-minimal = final.shellcheck;
  };
  withoutManual = {
    nixpkgs.overlays = [ withoutHaskell ];
    documentation.nixos.enable = false;
  };

  whole = (import (nixpkgs + "/flake.nix")).outputs { self = whole // { outPath = nixpkgs; }; };
  input = whole // {
    outPath = nixpkgs;
    lib = whole.lib.extend (
      _: previous: {
        nixosSystem = arguments: previous.nixosSystem (arguments // { modules = arguments.modules ++ [ withoutManual ]; });
      }
    );
    legacyPackages = builtins.mapAttrs (
      system: _:
      import nixpkgs {
        inherit system;
        overlays = [ withoutHaskell ];
      }
    ) whole.legacyPackages;
  };

  self = (import ../../flake.nix).outputs { inherit self; nixpkgs = input; } // {
    outPath = builtins.path {
      name = "source";
      path = ../..;
      filter = path: _: !builtins.elem (baseNameOf path) [ ".git" ".cache" "dist" "result" ];
    };
    nixpkgs = input;
  };
in
self

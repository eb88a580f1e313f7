# The outputs of this flake with a nixpkgs that is a folder, without copying that
# folder into a store as a flake's input would be.
folder:
let
  whole = (import (folder + "/flake.nix")).outputs { self = whole // { outPath = folder; }; };
  nixpkgs =
    (import ./nixpkgs/flake.nix).outputs {
      self = nixpkgs;
      whole = whole // {
        outPath = folder;
      };
    }
    # As its source, in the place of the folder.
    // { outPath = builtins.path { name = "source"; path = ./nixpkgs; }; };

  self =
    (import ../../flake.nix).outputs { inherit self nixpkgs; }
    // {
      inherit nixpkgs;
      inputs = { inherit nixpkgs; };
      outPath = builtins.path {
        name = "source";
        path = ../..;
        filter =
          path: _:
          !builtins.elem (baseNameOf path) [
            ".git"
            ".cache"
            "dist"
            "result"
          ];
      };
    };
in
self

# The runner-images command.
{
  lib,
  buildGoModule,
  go,
  installShellFiles,
  pkgs,
  stdenv,
}:
let
  # The release of Go that go.mod asks for, such as 1.26.
  goRelease = lib.head (
    builtins.match ".*\ngo ([0-9]+\\.[0-9]+)[^\n]*\n.*" (builtins.readFile ../go.mod)
  );
  buildWithGo =
    if lib.versionAtLeast go.version goRelease then
      buildGoModule
    else
      pkgs."buildGo${lib.replaceStrings [ "." ] [ "" ] goRelease}Module" or (throw ''
        runner-images is built with Go ${goRelease}, and this nixpkgs (${lib.version}) has Go ${go.version}.
        The oldest nixpkgs for the package is 26.05. The modules work with 24.11 and newer: leave the flake's input
        nixpkgs as it is locked (no inputs.nixpkgs.follows), or set the option package to
        runner-images.packages.${stdenv.hostPlatform.system}.runner-images.
      '');

  withoutTests =
    folder:
    lib.fileset.fileFilter (
      file: !lib.hasSuffix "_test.go" file.name && !file.hasExt "txtar"
    ) folder;
in
buildWithGo {
  pname = "runner-images";
  version = lib.trim (builtins.readFile ../cmd/runner-images/VERSION);

  # What the command is built from and nothing else, so that a change of the
  # documentation or of a module builds nothing anew.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../go.mod
      ../go.sum
      ../LICENSE
      ../scripts/licenses
      (withoutTests ../cmd/runner-images)
      (lib.fileset.difference (withoutTests ../internal) ../internal/lab)
    ];
  };

  # The hash of the modules that go.mod and go.sum name, as `nix hash path` has it
  # after `go mod vendor`: scripts/update-vendor-hash writes it here, and a test
  # compares it.
  vendorHash = "sha256-bvJTS7VyPG0qpA9g4yiQOVU2Sm4TUYeYKJhej2+OBwc=";

  subPackages = [ "cmd/runner-images" ];
  # Nothing of the C library: one static binary.
  tags = [
    "netgo"
    "osusergo"
  ];
  ldflags = [
    "-s"
    "-w"
  ];

  # The tests need a network namespace, Nix and a forge of their own.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  # The licenses of the modules ask to come with the program that they are linked into.
  postInstall = ''
    bash scripts/licenses $out/bin/runner-images > LICENSE.modules
    install -D -m 644 -t $out/share/doc/runner-images LICENSE LICENSE.modules
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd runner-images \
      --bash <($out/bin/runner-images completion bash) \
      --fish <($out/bin/runner-images completion fish) \
      --zsh <($out/bin/runner-images completion zsh)
    $out/bin/runner-images man man
    installManPage man/*.1
  '';

  meta = {
    description = "Builds NixOS boot images, releases them, and boots a fleet from the release";
    license = lib.licenses.asl20;
    mainProgram = "runner-images";
    platforms = lib.platforms.linux;
  };
}

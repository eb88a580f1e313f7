# What working on this repository needs.
{
  mkShell,
  actionlint,
  go,
  gopls,
  git,
  golangci-lint,
  qemu,
  shellcheck,
}:
mkShell {
  packages = [
    actionlint
    go
    gopls
    git
    golangci-lint
    qemu
    shellcheck
  ];
}

# A machine that the test's driver can talk to, though it is booted from an image.
{ modulesPath, ... }:
{
  imports = [ "${modulesPath}/testing/test-instrumentation.nix" ];
}

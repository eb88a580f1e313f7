# What forgejo-runner reads of a runner that has a UUID. It uses nothing of nixpkgs,
# so that a test evaluates it anywhere.
#
# Its token is a credential of the unit, called token.
cfg: {
  # The configuration from forgejo-runner 12.8 on.
  connected = {
    server.connections.forge = {
      inherit (cfg) url uuid labels;
      token_url = "file:$CREDENTIALS_DIRECTORY/token";
    };
  };

  # That of older ones, and of gitea-runner: they know a forge only from the file
  # that registering leaves behind, which is this with the token.
  registered.runner = {
    file = ".runner";
    inherit (cfg) labels;
  };
  registration = {
    id = 0;
    inherit (cfg) uuid name labels;
    address = cfg.url;
  };
}

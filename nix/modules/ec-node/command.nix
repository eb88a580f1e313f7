# The arguments of ec-node for one broadcast, as a list of words. It uses nothing
# of nixpkgs, so that a test evaluates it anywhere.
#
# `input` is the address of the channel on the tuner.
cfg: broadcast: input:
[
  "wt-publish"
  "--url"
  cfg.relay
  "--name"
  broadcast.name
  "--input"
  input
]
++ (if cfg.transcode then [ cfg.flags.transcode ] else [ ])
++ (if cfg.passthrough then [ cfg.flags.passthrough ] else [ ])
++ (if cfg.verifyTLS then [ ] else [ cfg.flags.noVerifyTLS ])
++ cfg.extraArgs
++ broadcast.extraArgs

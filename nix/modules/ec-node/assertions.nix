# What is wrong with the options of ec-node. It uses nothing of nixpkgs, so that a
# test evaluates it anywhere.
cfg:
let
  option = "services.every-channel.ec-node";
  names = map (broadcast: broadcast.name) cfg.broadcasts;
  count = name: builtins.length (builtins.filter (other: other == name) names);
  repeated = builtins.filter (name: count name > 1) names;
in
[
  {
    assertion = cfg.package != null;
    message = "${option}.package is not set. ec-node is a project of its own: set it to the package with its command.";
  }
  {
    assertion = cfg.hdhomerun.host != null || cfg.hdhomerun.deviceId != null;
    message = "${option}.hdhomerun: set host, the tuner's address or name, or deviceId, to have it looked up.";
  }
  {
    assertion = cfg.hdhomerun.host == null || cfg.hdhomerun.deviceId == null;
    message = "${option}.hdhomerun: both host and deviceId are set, and they might name two tuners. Set one of them.";
  }
  {
    assertion = repeated == [ ];
    message = "${option}.broadcasts: there are two with the name ${builtins.head (repeated ++ [ "" ])}. Give each its own.";
  }
]

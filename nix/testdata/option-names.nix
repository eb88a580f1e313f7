# The names of the options that the modules declare, with a stand-in for nixpkgs'
# lib that knows as much as declaring takes.
let
  # Whatever a type takes, and whatever is asked of one.
  type = {
    __functor = _: _: type;
  };
  types = builtins.listToAttrs (
    map
      (name: {
        inherit name;
        value = type;
      })
      [
        "anything"
        "bool"
        "either"
        "enum"
        "nonEmptyListOf"
        "nullOr"
        "package"
        "path"
        "port"
        "singleLineStr"
        "str"
        "strMatching"
      ]
  )
  // {
    ints.positive = type;
    # What the entries of a group have is documented with <name> or *.
    submodule = module: { entries = module.options; };
    attrsOf = of: of // { mark = "<name>"; };
    listOf = of: of // { mark = "*"; };
  };
  lib = {
    inherit types;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = description: {
      _type = "option";
      inherit description;
    };
    literalExpression = text: text;
    mkDefault = value: value;
    mkIf = _: _: { };
    mkMerge = _: { };
    optional = _: _: [ ];
    optionals = _: _: [ ];
    optionalAttrs = _: _: { };
    optionalString = _: _: "";
    recursiveUpdate = a: _: a;
  };

  load =
    path:
    let
      module = import path (
        builtins.mapAttrs
          (
            name: _:
            {
              inherit lib;
              config = {
                services.every-channel = {
                  runner = { };
                  ec-node = { };
                  netboot = { };
                  installer = { };
                };
              };
            }
            .${name} or { }
          )
          (builtins.functionArgs (import path))
      );
    in
    builtins.concatMap load (module.imports or [ ]) ++ names "" (module.options or { });

  names =
    prefix: options:
    builtins.concatMap (
      name:
      let
        option = options.${name};
        full = if prefix == "" then name else "${prefix}.${name}";
      in
      if option._type or null == "option" then
        [ full ] ++ (if option ? type.entries then names "${full}.${option.type.mark}" option.type.entries else [ ])
      else
        names full option
    ) (builtins.attrNames options);
in
builtins.concatMap load [
  ../modules/ec-runner
  ../modules/ec-node
  ../modules/ec-netboot
  ../modules/ec-installer
]

# The reference of the modules' options, in Markdown. scripts/update-options writes
# it to docs/OPTIONS.md.
{ lib, modules }:
let
  evaluated = lib.evalModules {
    modules = [
      modules
      {
        # Only options are looked at, and what defaults say of the machine.
        _module.check = false;
        _module.args = {
          pkgs = { };
          utils = { };
        };
      }
    ];
  };

  documented = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList evaluated.options.services.every-channel
  );

  # NixOS' Markdown has roles that others do not know.
  plain =
    text:
    lib.concatStrings (
      map (part: if lib.isList part then "`${lib.last part}`" else part) (
        builtins.split "\\{(option|file|command|env|manpage|var)}`([^`]*)`" text
      )
    );

  value =
    v:
    if v ? _type && (v._type == "literalExpression" || v._type == "literalMD") then
      v.text
    else
      lib.generators.toPretty { } v;

  code = text: if lib.hasInfix "\n" text then "\n\n```nix\n${text}\n```" else " `${text}`";

  section =
    option:
    lib.concatStringsSep "\n\n" (
      [
        "### ${option.name}"
        (plain (lib.trim option.description))
        "Type: ${option.type}"
      ]
      ++ lib.optional (option ? default) "Default:${code (value option.default)}"
      ++ lib.optional (option ? example) "Example:${code (value option.example)}"
    );

  chapter = name: title: ''
    ## ${title}

    ${lib.concatMapStringsSep "\n\n" section (
      lib.sort (a: b: a.name < b.name) (
        lib.filter (option: lib.hasPrefix "services.every-channel.${name}." option.name) documented
      )
    )}
  '';
in
''
  # Options of the NixOS modules

  Written by `scripts/update-options` from the modules; do not edit it.

  ${chapter "runner" "nixosModules.ec-runner"}
  ${chapter "ec-node" "nixosModules.ec-node"}
  ${chapter "netboot" "nixosModules.ec-netboot"}
  ${chapter "installer" "nixosModules.ec-installer"}''

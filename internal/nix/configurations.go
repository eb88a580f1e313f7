package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Configuration is one of a flake's NixOS configurations.
type Configuration struct {
	Name       string
	System     string   // that it is for, "x86_64-linux"; empty if it does not say
	Attributes []string // which of those that were looked for its config.system.build has
	Broken     bool     // it cannot be evaluated; then only its name is known
}

// listConfigurations is a function in Nix of a flake's nixosConfigurations. It takes
// from a configuration only what does not make Nix evaluate the whole system.
const listConfigurations = `configurations: builtins.mapAttrs (name: configuration:
  let
    about = {
      system = configuration.pkgs.stdenv.hostPlatform.system or "";
      attributes = builtins.filter (attribute: configuration.config.system.build ? ${attribute}) (builtins.fromJSON %q);
    };
    tried = builtins.tryEval (builtins.deepSeq about about);
  in
  if tried.success then tried.value else { broken = true; }
) configurations`

// Configurations returns a flake's NixOS configurations by name, each with those of the
// given attributes that its config.system.build has. It builds nothing and writes no
// lock file. A relative flake starts from the folder dir, or this process's working
// directory if that is empty.
func (n Nix) Configurations(ctx context.Context, dir, flake string, attributes []string) ([]Configuration, error) {
	folder, local := localFlake(dir, flake)
	if local {
		if reason := missingFlake(flake, folder); reason != "" {
			return nil, errors.New(reason)
		}
	}
	wanted, err := json.Marshal(attributes)
	if err != nil {
		return nil, err
	}
	output, err := n.output(ctx, dir, "eval", "--json", "--no-write-lock-file",
		"--apply", fmt.Sprintf(listConfigurations, wanted), "--", flake+"#nixosConfigurations")
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "does not provide attribute"):
		return nil, nil
	case local && untracked.MatchString(err.Error()):
		return nil, errors.New(untrackedFlake(flake, folder))
	default:
		return nil, err
	}
	known := map[string]Configuration{}
	if err := json.Unmarshal(output, &known); err != nil {
		return nil, fmt.Errorf("unexpected output of nix eval --json: %w", err)
	}
	var configurations []Configuration
	for _, name := range slices.Sorted(maps.Keys(known)) {
		c := known[name]
		c.Name = name
		configurations = append(configurations, c)
	}
	return configurations, nil
}

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

// lookAtConfigurations is a function in Nix of some of a flake's nixosConfigurations. It
// takes from a configuration only what does not make Nix evaluate the whole system.
const lookAtConfigurations = `builtins.mapAttrs (name: configuration:
  let
    about = {
      system = configuration.pkgs.stdenv.hostPlatform.system or "";
      attributes = builtins.filter (attribute: configuration.config.system.build ? ${attribute}) (builtins.fromJSON %s);
    };
    tried = builtins.tryEval (builtins.deepSeq about about);
  in
  if tried.success then tried.value else { broken = true; }
)`

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
	look := fmt.Sprintf(lookAtConfigurations, stringInNix(string(wanted)))
	var known map[string]Configuration
	err = n.applyToConfigurations(ctx, dir, flake, look, &known)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "does not provide attribute"):
		return nil, nil
	case local && untracked.MatchString(err.Error()):
		return nil, errors.New(untrackedFlake(flake, folder))
	default:
		if known = n.lookOneByOne(ctx, dir, flake, look); known == nil {
			return nil, err
		}
	}
	var configurations []Configuration
	for _, name := range slices.Sorted(maps.Keys(known)) {
		c := known[name]
		c.Name = name
		configurations = append(configurations, c)
	}
	return configurations, nil
}

// lookOneByOne looks at each configuration by itself, since one of them ends Nix with an
// error that its tryEval does not catch, such as a wrong type. It returns nil if their names
// cannot be had either, or the context has ended.
func (n Nix) lookOneByOne(ctx context.Context, dir, flake, look string) map[string]Configuration {
	var names []string
	if err := n.applyToConfigurations(ctx, dir, flake, "builtins.attrNames", &names); err != nil {
		return nil
	}
	known := map[string]Configuration{}
	for _, name := range names {
		quoted, err := json.Marshal([]string{name})
		if err != nil {
			return nil
		}
		only := fmt.Sprintf("all: %s (builtins.intersectAttrs (builtins.listToAttrs (map (name: { inherit name; value = null; }) (builtins.fromJSON %s))) all)", look, stringInNix(string(quoted)))
		if err := n.applyToConfigurations(ctx, dir, flake, only, &known); err != nil {
			known[name] = Configuration{Broken: true}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return known
}

// stringInNix writes a text as an expression of Nix, in which "${" would begin another.
func stringInNix(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`).Replace(text) + `"`
}

// applyToConfigurations evaluates a function in Nix of a flake's nixosConfigurations.
func (n Nix) applyToConfigurations(ctx context.Context, dir, flake, function string, result any) error {
	output, err := n.output(ctx, dir, "eval", "--json", "--no-write-lock-file", "--apply", function, "--", flake+"#nixosConfigurations")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(output, result); err != nil {
		return fmt.Errorf("unexpected output of nix eval --json: %w", err)
	}
	return nil
}

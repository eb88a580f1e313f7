package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Foreign returns why no machine at hand can build an image, by the image's name:
// its derivation is for a system that is neither this machine's nor a remote
// builder's. Nix itself finds that out late, after it has fetched or built all
// that such an image is made of. What is in the store already is not foreign, nor
// is anything if the request's arguments change what machines there are.
//
// The error is an *EvaluationError if images cannot be evaluated.
func (n Nix) Foreign(ctx context.Context, request Request) (map[string]string, error) {
	v, err := n.version(ctx)
	if err != nil {
		return nil, err
	}
	targets, err := n.evaluate(ctx, request)
	if err != nil {
		return nil, err
	}
	if setsMachines(slices.Concat(n.Args, request.Args)) {
		return nil, nil
	}
	here, err := n.systems(ctx, v)
	if err != nil {
		return nil, err
	}
	foreign := map[string]string{}
	for _, t := range targets {
		if t.derivation == "" || n.valid(ctx, t.output) {
			continue
		}
		system, err := n.systemOf(ctx, v, t.derivation)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(here, system) {
			foreign[t.image.Name] = fmt.Sprintf("it must be built on %s, and this machine is %s", system, here[0])
		}
	}
	return foreign, nil
}

// setsMachines reports whether arguments to nix build are about where it builds.
func setsMachines(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		for _, part := range []string{"builders", "system", "platforms", "store", "eval-store"} {
			if strings.Contains(arg, part) {
				return true
			}
		}
		return false
	})
}

// systems returns the systems that can be built for, this machine's own first.
func (n Nix) systems(ctx context.Context, v version) ([]string, error) {
	command := []string{"config", "show", "--json"}
	if v.before(version{major: 2, minor: 20}) {
		command = []string{"show-config", "--json"}
	}
	output, err := n.output(ctx, "", command...)
	if err != nil {
		return nil, err
	}
	var config struct {
		System         struct{ Value string }   `json:"system"`
		ExtraPlatforms struct{ Value []string } `json:"extra-platforms"`
		Builders       struct{ Value string }   `json:"builders"`
	}
	if err := json.Unmarshal(output, &config); err != nil {
		return nil, fmt.Errorf("unexpected output of nix %s: %w", strings.Join(command, " "), err)
	}
	systems := append([]string{config.System.Value}, config.ExtraPlatforms.Value...)
	return append(systems, builderSystems(config.Builders.Value, config.System.Value)...), nil
}

// builderSystems reads the systems of remote builders from the setting "builders",
// which has a builder a line or between semicolons, or "@" and a file of them: an
// address, its systems with commas between them, and more.
func builderSystems(builders, own string) []string {
	var systems []string
	for line := range strings.FieldsFuncSeq(builders, func(r rune) bool { return r == '\n' || r == ';' }) {
		line = strings.TrimSpace(line)
		if path, isFile := strings.CutPrefix(line, "@"); isFile {
			content, err := os.ReadFile(path) // by default one that need not be there
			if err == nil {
				systems = append(systems, builderSystems(string(content), own)...)
			}
			continue
		}
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
		case len(fields) == 1 || fields[1] == "-":
			systems = append(systems, own)
		default:
			systems = append(systems, strings.Split(fields[1], ",")...)
		}
	}
	return systems
}

// systemOf returns the system that a derivation is built on.
func (n Nix) systemOf(ctx context.Context, v version, derivation string) (string, error) {
	command := []string{"derivation", "show"}
	if v.before(version{major: 2, minor: 20}) {
		command = []string{"show-derivation"}
	}
	output, err := n.output(ctx, "", append(command, "--", derivation)...)
	if err != nil {
		return "", err
	}
	system, ok := readSystem(output)
	if !ok {
		return "", fmt.Errorf("unexpected output of nix %s: not a derivation", strings.Join(command, " "))
	}
	return system, nil
}

// readSystem finds the system in an object of one derivation by its path, which
// newer versions wrap in another object.
func readSystem(output []byte) (system string, ok bool) {
	var wrapped struct{ Derivations json.RawMessage }
	if json.Unmarshal(output, &wrapped) == nil && wrapped.Derivations != nil {
		output = wrapped.Derivations
	}
	var derivations map[string]struct{ System string }
	if json.Unmarshal(output, &derivations) != nil {
		return "", false
	}
	for _, derivation := range derivations {
		return derivation.System, derivation.System != ""
	}
	return "", false
}

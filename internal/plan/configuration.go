package plan

import (
	"fmt"
	"regexp"
	"strings"

	"every.channel/runner-images/internal/artifact"
)

// ImageAttributes are the attributes of config.system.build that are images, as NixOS
// and this project's modules call them.
func ImageAttributes() []string {
	var attributes []string
	for _, kind := range imageKinds {
		attributes = append(attributes, kind.attribute)
	}
	return attributes
}

// imageKinds are the attributes of ImageAttributes, and what the image's name ends with
// where a configuration has several.
var imageKinds = []struct{ attribute, suffix string }{
	{"netboot", "-netboot"},
	{"isoImage", "-iso"},
	{"sdImage", "-sdimage"},
}

// ConfigurationImages returns the images of one of a flake's NixOS configurations, for
// the input images: its installable is an attribute of the flake. attributes are those
// of ImageAttributes that it has. The error says why the configuration's name cannot be
// an image's.
func ConfigurationImages(configuration string, attributes []string) ([]artifact.Image, error) {
	attribute := configuration
	if !bareAttribute.MatchString(configuration) {
		attribute = `"` + configuration + `"`
	}
	if !artifact.ValidName(configuration) {
		return nil, fmt.Errorf("the name %q begins a file's name: use letters, digits and . _ + -", configuration)
	}
	var images []artifact.Image
	for _, kind := range imageKinds {
		for _, has := range attributes {
			if has != kind.attribute {
				continue
			}
			name := configuration
			if len(attributes) > 1 && !strings.HasSuffix(name, kind.suffix) {
				name += kind.suffix
			}
			images = append(images, artifact.Image{
				Name:        name,
				Installable: fmt.Sprintf("nixosConfigurations.%s.config.system.build.%s", attribute, has),
			})
		}
	}
	return images, nil
}

// bareAttribute is a name that Nix takes without quotes.
var bareAttribute = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_'-]*$`)

package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

func TestImagesOfAConfiguration(t *testing.T) {
	t.Parallel()
	for configuration, want := range map[string]string{
		"kiosk netboot":              "kiosk nixosConfigurations.kiosk.config.system.build.netboot",
		"kiosk sdImage":              "kiosk nixosConfigurations.kiosk.config.system.build.sdImage",
		"kiosk isoImage netboot":     "kiosk-netboot nixosConfigurations.kiosk.config.system.build.netboot\nkiosk-iso nixosConfigurations.kiosk.config.system.build.isoImage",
		"kiosk-iso isoImage sdImage": "kiosk-iso nixosConfigurations.kiosk-iso.config.system.build.isoImage\nkiosk-iso-sdimage nixosConfigurations.kiosk-iso.config.system.build.sdImage",
		"10.example isoImage":        `10.example nixosConfigurations."10.example".config.system.build.isoImage`,
		"kiosk":                      "",
	} {
		words := strings.Fields(configuration)
		images, err := ConfigurationImages(words[0], words[1:])
		require.NoError(t, err)
		var lines []string
		for _, image := range images {
			lines = append(lines, image.Name+" "+image.Installable)
		}
		assert.Equal(t, want, strings.Join(lines, "\n"), configuration)
		if want == "" {
			continue
		}
		// The input takes them as they are, and completes them.
		p, err := Make(map[string]string{Images: want, PublishRelease: "false", ReleaseTag: "boot-v1"}, Context{})
		require.NoError(t, err)
		for i := range images {
			images[i].Installable = ".#" + images[i].Installable
		}
		assert.Equal(t, images, p.Images)
	}
	for _, name := range []string{"", "a b", `a"b`, "a\nb", "${a}", "-a", "a/b", "ä", "a#b"} {
		_, err := ConfigurationImages(name, []string{"isoImage"})
		assert.ErrorContains(t, err, fmt.Sprintf("the name %q ", name))
	}
}

// TestOwnImagesAreImagesOfTheirConfigurations holds what the inputs build_… name and
// what is found in a flake together.
func TestOwnImagesAreImagesOfTheirConfigurations(t *testing.T) {
	t.Parallel()
	for _, own := range ownImages {
		images, err := ConfigurationImages(own.name, []string{own.attribute})
		require.NoError(t, err)
		p, err := Make(map[string]string{PublishRelease: "false", ReleaseTag: "boot-v1", own.input: "true"}, Context{})
		require.NoError(t, err)
		require.Len(t, images, 1)
		assert.Contains(t, p.Images, artifact.Image{Name: images[0].Name, Installable: ".#" + images[0].Installable})
		assert.Contains(t, ImageAttributes(), own.attribute)
	}
}

package plan_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/plan"
)

func TestOtherTag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, tag, want string }{
		{"kiosk-boot-v2.iso", "boot-v2", ""},
		{"kiosk-boot-v1.iso", "boot-v2", "boot-v1"},
		{"kiosk-pxe-boot-v2026.01.31.tar.gz", "boot-v2026.02.28", "boot-v2026.01.31"},
		{"kiosk-pxe-boot-v2026.02.28.tar.gz", "boot-v2026.02.28", ""},
		{"kiosk-boot-0123abc.img.zst", "boot-v2026.02.28", "boot-0123abc"},
		{"kiosk-boot-v1.iso", "boot-v1-rc1", "boot-v1"},
		{"kiosk-boot-v1-rc1.iso", "boot-v1", "boot-v1-rc1"},
		{"kiosk-v1.0.iso", "v1.1", "v1.0"},
		{"kiosk-images-7.iso", "images/8", "images-7"},
		{"kiosk-images-8.iso", "images/8", ""},
		{"kiosk.iso", "boot-v2", ""},
		{"kiosk-boot-menu.iso", "boot-v2", ""},
		{"lab-boot-v1-image-boot-v2.iso", "boot-v2", ""},
		{"kernel-6.12.iso", "boot-v2", ""},
		{"provenance.intoto.jsonl", "boot-v2", ""},
	} {
		other, ok := plan.OtherTag(c.name, c.tag)
		assert.Equal(t, c.want, other, "%s in %s", c.name, c.tag)
		assert.Equal(t, c.want != "", ok, "%s in %s", c.name, c.tag)
	}
}

// A rule of boot servers is said before the build.
func TestBundlesForTheSameMachines(t *testing.T) {
	t.Parallel()
	const images = "desk-x86_64-netboot .#desk\nkiosk-x86_64-netboot .#kiosk\npi-aarch64-netboot .#pi"
	given := map[string]string{plan.PublishRelease: "false", plan.ReleaseTag: "boot-v1", plan.Images: images}
	p, err := plan.Make(given, plan.Context{})
	assert.NoError(t, err)
	assert.Equal(t, []string{"boot servers will not stage the release boot-v1: it has 2 netboot bundles for x86_64: desk-x86_64-netboot-boot-v1.tar.gz, kiosk-x86_64-netboot-boot-v1.tar.gz; keep one of them"}, p.Notes)
	given[plan.Images] = images + "\nec-runner-x86_64-netboot .#own" // which boot servers prefer
	p, err = plan.Make(given, plan.Context{})
	assert.NoError(t, err)
	assert.Empty(t, p.Notes)
}

func TestOneInstallableALine(t *testing.T) {
	t.Parallel()
	for line, good := range map[string]bool{
		`kiosk .#a .#b`:            false,
		`kiosk a b`:                false,
		`kiosk nixpkgs#hello // x`: false,
		`kiosk .#a # b`:            true,
		`kiosk .#"a b".c`:          true,
		`kiosk .#"a b" c`:          false,
		`kiosk ./a folder`:         true,
	} {
		_, err := plan.Make(map[string]string{plan.Images: line, plan.PublishRelease: "false"}, push)
		if good {
			assert.NoError(t, err, line)
		} else {
			assert.ErrorContains(t, err, "a line has one installable", line)
		}
	}
}

package deploy

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/plan"
)

// TestNotes compares with testdata/notes.md. With UPDATE=1 in the environment it
// writes that instead.
func TestNotes(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ReleaseTag: "boot-v1", ForgeURL: "https://forge.example", Repository: "every/channel", Commit: "c0ffee"}
	got := notes(p, origin(p, "f1a4e"), []artifact.Artifact{
		{Name: "a-boot-v1.tar.gz", Size: 3 << 20, SHA256: "01"},
		{Name: "b-boot-v1.iso", Size: 5, SHA256: "02"},
		{Name: "c-boot-v1.img.zst", Size: 5, SHA256: "03"},
		{Name: "d-boot-v1.img", Size: 5, SHA256: "04"},
		{Name: "e.json", Size: 5, SHA256: "05"},
	}, true)
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile("testdata/notes.md", []byte(got), 0o644))
	}
	want, err := os.ReadFile("testdata/notes.md")
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ForgeURL: "file:///srv", Commit: "c0ffee"}
	assert.Equal(t, "Built from commit `c0ffee`, the flake's revision too.", origin(p, "c0ffee"))
	assert.Equal(t, "Built from commit `c0ffee`; the flake was not at a revision in git.", origin(p, ""))
	assert.Empty(t, origin(plan.Plan{}, "c0ffee"))

	assert.Equal(t, origin(p, ""), originIn("By hand.\n\n"+notes(p, origin(p, ""), nil, false)))
	assert.Empty(t, originIn("By hand.\n"))
	assert.NotContains(t, notes(p, "", nil, false), "ssh-keygen")
}

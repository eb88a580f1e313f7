package state_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

func TestRings(t *testing.T) {
	t.Parallel()
	dir := create(t)
	rings, err := dir.Rings("")
	require.NoError(t, err)
	assert.Empty(t, rings.Rings)
	elsewhere := filepath.Join(t.TempDir(), "rings")
	_, err = dir.Rings(elsewhere)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(elsewhere, []byte("rings: [{name: all, release_tag: x}]"), 0o600))
	rings, err = dir.Rings(elsewhere)
	require.NoError(t, err)
	assert.Len(t, rings.Rings, 1)
	require.NoError(t, os.WriteFile(elsewhere, []byte("ring: []"), 0o600))
	_, err = dir.Rings(elsewhere)
	require.ErrorContains(t, err, elsewhere+": line 1")

	require.NoError(t, os.WriteFile(filepath.Join(dir.Path(), "rings.yaml"), []byte(`
# the three on the bench
rings:
  - name: bench
    release_tag: boot-v2026.03
    macs: [11:22:33:44:55:16, 00-1A-2b-3C-4d-5E]
  - name: 2
    release_tag: 2026.03
`), 0o600))
	rings, err = dir.Rings("")
	require.NoError(t, err)
	require.Len(t, rings.Rings, 2)
	assert.Equal(t, "2026.03", rings.Rings[1].Tag)
	for _, written := range []string{"11:22:33:44:55:16", "00:1a:2b:3c:4d:5e", "00-1A-2B-3C-4D-5E"} {
		mac, err := machine.ParseMAC(written)
		require.NoError(t, err)
		ring, ok := rings.For(mac)
		assert.True(t, ok, written)
		assert.Equal(t, "bench", ring.Name)
		assert.Equal(t, "boot-v2026.03", ring.Tag)
	}
	mac, err := machine.ParseMAC("00:00:00:00:00:01")
	require.NoError(t, err)
	_, ok := rings.For(mac)
	assert.False(t, ok)

	require.NoError(t, os.WriteFile(filepath.Join(dir.Path(), "rings.yaml"), []byte("ring: []"), 0o600))
	_, err = dir.Rings("")
	require.ErrorContains(t, err, filepath.Join(dir.Path(), "rings.yaml")+": line 1")
}

func TestRingsErrorsCiteTheLine(t *testing.T) {
	t.Parallel()
	for _, wrong := range []struct{ rings, want string }{
		{"rings:\n- name: a\n  release: x\n", `line 3: unknown key "release"`},
		{"ring: []\n", `line 1: unknown key "ring"`},
		{"- name: a\n", "line 1: want the keys"},
		{"rings:\n- a\n", "line 2: want the keys"},
		{"rings:\n- name: a\n  release_tag: [x]\n", "line 3: want one word"},
		{"rings:\n  canary:\n    release_tag: x\n", "line 2: rings wants a list, with entries like: - {name: canary"},
		{"rings:\n- name: a\n  release_tag: x\n  macs:\n  - \n", `line 5: macs has an empty entry; remove it, or write one like: - "00:11:22:33:44:55"`},
		{"rings:\n- name: a\n  release_tag: x\n  macs: [~]\n", "line 4: macs has an empty entry"},
		{"rings:\n- name: a\n  release_tag: x\n-\n", "line 4: rings has an empty entry"},
		{"rings: canary\n", "line 1: rings wants a list"},
		{"rings:\n- name: a\n  release_tag: x\n  macs: 00:11:22:33:44:55\n", `line 4: macs wants a list, with entries like: - "00:11:22:33:44:55"`},
		{"rings:\n- release_tag: x\n", "line 2: this ring has no name"},
		{"rings:\n- name: a\n", "line 2: release tag"},
		{"rings:\n- name: a\n  release_tag: a b\n", "line 3: release tag"},
		{"rings:\n- {name: a, release_tag: x}\n- {name: a, release_tag: x}\n", "line 3: there are two rings with the name a"},
		{"rings:\n- name: a\n  release_tag: x\n  macs:\n  - 0:1:2:3:4:5\n", "line 5: \"0:1:2:3:4:5\" is no MAC address"},
		{"rings:\n- name: a\n  release_tag: x\n  macs: [02:00:5e:10:00:00:00:01]\n", "is no MAC address"},
		{"rings:\n- name: a\n  release_tag: x\n  macs: [0200.5e10.0000]\n", "is no MAC address"},
		{"rings:\n- {name: a, release_tag: x, macs: [\"00:11:22:33:44:aa\"]}\n- {name: b, release_tag: y, macs: [\"00-11-22-33-44-AA\"]}\n", "line 3: 00:11:22:33:44:aa stands twice: in ring a and in ring b"},
		{"rings:\n\t- a", "yaml: line 2"},
		{"rings:\n- {name: a, release_tag: x}\n---\nrings:\n- {name: b, release_tag: y}\n", "line 3: another document begins here"},
		{"rings: []\n---\n\t- a", "yaml: line 3"},
	} {
		_, err := state.ParseRings(strings.NewReader(wrong.rings))
		assert.ErrorContains(t, err, wrong.want, "rings %q", wrong.rings)
	}
	for _, empty := range []string{"", "# none\n", "rings:\n", "rings: []\n", "---\nrings: []\n...\n"} {
		rings, err := state.ParseRings(strings.NewReader(empty))
		require.NoError(t, err, "input %q", empty)
		assert.Empty(t, rings.Rings)
	}
}

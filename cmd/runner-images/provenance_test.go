package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/trust"
)

// Provenance knows each input: of one that it does not know, nothing is recorded.
func TestInputsAreRecorded(t *testing.T) {
	t.Parallel()
	given, want := map[string]string{}, map[string]string{}
	for _, input := range plan.Inputs() {
		given[input.Name] = "value"
		if !input.Secret {
			want[input.Name] = "value"
		}
	}
	want[plan.NixArgs] = "***" // nothing that nix is known to take
	build := about(given, plan.Context{})
	build.Tag, build.Subjects = "boot-v1", checksum.Sums{"x.iso": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
	attested, err := trust.Attest(t.Context(), build, nil)
	require.NoError(t, err)
	assert.Equal(t, want, attested.Build.Inputs)
}

package action

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/plan"
)

// TestREADMEHasTheInputs compares README's table of inputs. With UPDATE=1 in the
// environment it writes the table instead.
func TestREADMEHasTheInputs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(lab.Root(t), "README.md")
	readme := string(read(t, path))
	before, rest, ok := strings.Cut(readme, "<!-- inputs -->\n")
	require.True(t, ok)
	got, after, ok := strings.Cut(rest, "<!-- /inputs -->")
	require.True(t, ok)

	var want strings.Builder
	want.WriteString("| Input | Default | |\n|---|---|---|\n")
	for _, input := range plan.Inputs() {
		description, value := input.Description, ""
		if text, fromRun, ok := strings.Cut(description, ". Default: "); ok {
			description, value = text, fromRun
		}
		if input.Default != "" {
			value = "`" + input.Default + "`"
		}
		row := fmt.Sprintf("| `%s` | %s | %s |\n", input.Name, value, description)
		want.WriteString(strings.ReplaceAll(row, "<", "&lt;"))
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(before+"<!-- inputs -->\n"+want.String()+"<!-- /inputs -->"+after), 0o644))
		return
	}
	assert.Equal(t, want.String(), got, "UPDATE=1 go test ./internal/action -run README writes it")
}

// Package action holds no code: its tests see to it that action.yml, the
// launcher and the workflows fit the binary that they run.
package action

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/plan"
)

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(t), name))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, into))
}

// fromTheRun are the inputs whose default action.yml takes from the run.
var fromTheRun = map[string]string{
	plan.ForgeURL:   "${{ github.server_url }}",
	plan.Repository: "${{ github.repository }}",
	plan.Token:      "${{ github.token }}",
}

func TestActionHasThePlansInputs(t *testing.T) {
	t.Parallel()
	var action struct {
		Inputs map[string]struct {
			Description string
			Default     string
			Required    bool
		}
		Outputs map[string]struct{ Description, Value string }
		Runs    struct {
			Using string
			Steps []struct {
				ID, Shell, Run string
				Env            map[string]string
			}
		}
	}
	readYAML(t, "action.yml", &action)
	assert.Equal(t, "composite", action.Runs.Using)
	require.Len(t, action.Runs.Steps, 1)
	step := action.Runs.Steps[0]
	assert.Len(t, action.Inputs, len(plan.Inputs()))
	assert.Len(t, step.Env, len(plan.Inputs()))
	for _, input := range plan.Inputs() {
		got, ok := action.Inputs[input.Name]
		if assert.True(t, ok, "action.yml lacks %s", input.Name) {
			assert.Equal(t, input.Description, got.Description, input.Name)
			assert.False(t, got.Required, input.Name)
		}
		if run, ok := fromTheRun[input.Name]; ok {
			assert.Equal(t, run, got.Default, input.Name)
		} else {
			assert.Equal(t, input.Default, got.Default, input.Name)
		}
		assert.Equal(t, "${{ inputs."+input.Name+" }}", step.Env[input.Variable()], "the step's environment")
	}
	for _, name := range []string{"skipped", "release_tag", "release_url", "assets", "output_dir"} {
		assert.Equal(t, "${{ steps."+step.ID+".outputs."+name+" }}", action.Outputs[name].Value)
		assert.NotEmpty(t, action.Outputs[name].Description)
	}
	assert.Len(t, action.Outputs, 5)
}

func TestWorkflowTriggers(t *testing.T) {
	t.Parallel()
	var workflow struct {
		On struct {
			Push     struct{ Tags []string }
			Dispatch struct {
				Inputs map[string]struct {
					Type     string
					Required bool
					Default  any
				}
			} `yaml:"workflow_dispatch"`
		}
		Permissions map[string]string
	}
	readYAML(t, ".forgejo/workflows/deploy-runner-images.yml", &workflow)
	assert.Equal(t, []string{plan.TagPrefix + "*"}, workflow.On.Push.Tags)
	assert.Len(t, workflow.On.Dispatch.Inputs, 4)
	for name, kind := range map[string]string{
		plan.ReleaseTag: "string", plan.PublishRelease: "boolean", plan.BuildX8664Netboot: "boolean", plan.BuildX8664ISO: "boolean",
	} {
		input := workflow.On.Dispatch.Inputs[name]
		assert.Equal(t, kind, input.Type, name)
		assert.False(t, input.Required, name)
		if kind == "boolean" {
			assert.Equal(t, true, input.Default, name)
		}
	}
	assert.Equal(t, map[string]string{"contents": "write"}, workflow.Permissions)
}

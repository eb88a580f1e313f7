// Package action holds no code: its tests see to it that action.yml, the
// launcher and the workflows fit the binary that they run.
package action

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	require.Len(t, action.Runs.Steps, 2)
	prepare, step := action.Runs.Steps[0], action.Runs.Steps[1]
	for _, variable := range []string{"FORGEJO_TOKEN", "GITEA_TOKEN", "GITHUB_TOKEN", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"} {
		assert.Contains(t, prepare.Env, variable)
	}
	for variable, value := range prepare.Env {
		assert.Empty(t, value, variable)
	}
	assert.Equal(t, "${{ steps."+prepare.ID+".outputs.program }}", step.Env["RUNNER_IMAGES_PROGRAM"])
	assert.Len(t, action.Inputs, len(plan.Inputs()))
	assert.Len(t, step.Env, len(plan.Inputs())+1)
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
		if input.Secret {
			assert.Contains(t, prepare.Env, input.Variable())
		}
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

// TestWorkflowsOfThisRepository are about whom a workflow gives what: public actions
// are pinned by commit, a checkout leaves no token behind, and a pull request gets
// no privileges.
func TestWorkflowsOfThisRepository(t *testing.T) {
	t.Parallel()
	type step struct {
		Uses string
		With map[string]any
	}
	type job struct {
		If        string
		RunsOn    string `yaml:"runs-on"`
		Container struct{ Options string }
		Steps     []step
	}
	texts := map[string][]byte{}
	for _, pattern := range []string{"workflows/*.yml", "actions/*/action.yml"} {
		paths, err := filepath.Glob(filepath.Join(lab.Root(t), ".forgejo", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			texts[path] = read(t, path)
		}
	}
	_, example, _ := strings.Cut(string(read(t, filepath.Join(lab.Root(t), "README.md"))), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	texts["README.md"] = []byte(example)
	checkouts := 0
	for name, text := range texts {
		var workflow struct {
			Jobs map[string]job
			Runs struct{ Steps []step }
		}
		require.NoError(t, yaml.Unmarshal(text, &workflow), name)
		steps := workflow.Runs.Steps
		for _, job := range workflow.Jobs {
			steps = append(steps, job.Steps...)
			if job.Container.Options != "" {
				assert.Equal(t, "${{ github.event_name == 'push' }}", job.If, name)
				assert.Equal(t, "privileged", job.RunsOn, name)
			} else {
				assert.NotEqual(t, "privileged", job.RunsOn, name)
			}
		}
		for _, step := range steps {
			if strings.HasPrefix(step.Uses, "actions/") {
				assert.Regexp(t, `@[0-9a-f]{40}$`, step.Uses, name)
			}
			if strings.HasPrefix(step.Uses, "actions/checkout@") {
				checkouts++
				assert.Equal(t, false, step.With["persist-credentials"], name)
			}
		}
		assert.NotContains(t, string(text), "pull_request_target", name)
	}
	assert.Equal(t, 5, checkouts)
}

// TestPullRequestsTakeNoNamespaces holds the workflow's list of what needs more than a
// container without privileges to the tests that make namespaces.
func TestPullRequestsTakeNoNamespaces(t *testing.T) {
	t.Parallel()
	root := lab.Root(t)
	line := regexp.MustCompile(`(?s)-skip '(.*?)'.*grep -vE 'runner-images/(.*?)'`).FindStringSubmatch(string(read(t, filepath.Join(root, ".forgejo/workflows/ci.yml"))))
	require.NotNil(t, line)
	skipped, leftOut := regexp.MustCompile(line[1]), regexp.MustCompile("^"+line[2])
	makes := regexp.MustCompile(`"unshare"|\blab\.NewNetwork\(|[^.]\bNewNetwork\(t`)
	list := strings.Fields(sh(t, root, "git ls-files '*_test.go'"))
	require.Greater(t, len(list), 50)
	for _, file := range list {
		if leftOut.MatchString(filepath.Dir(file)) {
			continue
		}
		functions := strings.Split(string(read(t, filepath.Join(root, file))), "\nfunc ")
		for _, function := range functions {
			name, _, _ := strings.Cut(function, "(")
			assert.True(t, !makes.MatchString(function) || skipped.MatchString(name), "%s: %s takes a namespace: leave it or its package out in ci.yml", file, name)
		}
	}
}

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
)

// TestDefaultsHaveTheirRows keeps docs/DEFAULTS.md true: there is a row for each
// default and for nothing else, with the value that it has, and the tests that the
// rows name are there.
func TestDefaultsHaveTheirRows(t *testing.T) {
	t.Parallel()
	root := lab.Root(t)
	defaults := map[string]string{}
	flagDefaults(newRoot(report.New(report.Options{})), defaults)
	workflowDefaults(t, root, defaults)
	optionDefaults(t, root, defaults)
	debianDefaults(t, root, defaults)
	variables(t, root, defaults)
	tests := testNames(t, root)

	ways := regexp.MustCompile("^(`Test|evaluated: `Test|replaced: |none: )")
	for line := range strings.Lines(readText(t, root, "docs/DEFAULTS.md")) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !assert.Len(t, cells, 3, line) {
			continue
		}
		for _, name := range quoted(cells[0]) {
			want, ok := defaults[name]
			assert.True(t, ok, "%s: there is no such default, or it has two rows", name)
			delete(defaults, name)
			if !strings.HasPrefix(name, "$") { // what holds without a variable is told in words
				assert.Equal(t, want, strings.Join(quoted(cells[1]), ""), name)
			}
		}
		how := strings.TrimSpace(cells[2])
		assert.Regexp(t, ways, how, line)
		for _, name := range quoted(how) {
			assert.Contains(t, tests, name, line)
		}
	}
	for name, value := range defaults {
		t.Errorf("docs/DEFAULTS.md has no row for %s, whose default is %q", name, value)
	}
}

// quoted returns what stands between backquotes.
func quoted(cell string) (words []string) {
	for _, match := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cell, -1) {
		words = append(words, match[1])
	}
	return words
}

// flagDefaults adds the inputs, which are flags of deploy and plan, and all other
// flags as "publish --replace".
func flagDefaults(cmd *cobra.Command, defaults map[string]string) {
	inputs := map[string]plan.Input{}
	for _, input := range plan.Inputs() {
		inputs[input.Flag()] = input
		if input.Secret {
			inputs[input.Flag()+"-file"] = input
		}
		defaults[input.Name] = input.Default
	}
	command := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		input, isInput := inputs[flag.Name]
		switch {
		case isInput && (command == "deploy" || command == "plan"):
		case isInput && flag.DefValue == "":
			defaults[command+" --"+flag.Name] = input.Default
		default:
			defaults[command+" --"+flag.Name] = strings.Trim(flag.DefValue, "[]") // a list's, which is empty
		}
	})
	for _, child := range cmd.Commands() {
		flagDefaults(child, defaults)
	}
}

func workflowDefaults(t *testing.T, root string, defaults map[string]string) {
	t.Helper()
	var workflow struct {
		On struct {
			Dispatch struct {
				Inputs map[string]struct{ Default string }
			} `yaml:"workflow_dispatch"`
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(readText(t, root, ".forgejo/workflows/deploy-runner-images.yml")), &workflow))
	require.NotEmpty(t, workflow.On.Dispatch.Inputs)
	for name, input := range workflow.On.Dispatch.Inputs {
		defaults["workflow_dispatch "+name] = input.Default
	}
}

// optionDefaults adds the options of the modules, but for those without a default.
func optionDefaults(t *testing.T, root string, defaults map[string]string) {
	t.Helper()
	value := regexp.MustCompile("(?m)^Default:(?: `(.*)`|\n\n```nix\n((?:.*\n)*?)```)$")
	_, options, _ := strings.Cut(readText(t, root, "docs/OPTIONS.md"), "\n### services.every-channel.")
	for section := range strings.SplitSeq(options, "\n### services.every-channel.") {
		name, text, _ := strings.Cut(section, "\n")
		if match := value.FindStringSubmatch(text); match != nil {
			defaults[name] = strings.Join(strings.Fields(match[1]+match[2]), " ")
		}
	}
}

// debianDefaults adds what the Debian package's configuration sets.
func debianDefaults(t *testing.T, root string, defaults map[string]string) {
	t.Helper()
	setting := regexp.MustCompile(`(?m)^([A-Z_]+)="(.*)"$`)
	settings := setting.FindAllStringSubmatch(readText(t, root, "scripts/debian/root/etc/default/runner-images-netboot"), -1)
	require.NotEmpty(t, settings)
	for _, match := range settings {
		defaults["debian "+match[1]] = match[2]
	}
}

// variables adds the variables of the environment that the commands and the launcher
// look at, as "$TERM".
func variables(t *testing.T, root string, defaults map[string]string) {
	t.Helper()
	literal := regexp.MustCompile(`"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"|[gG]etenv\("([A-Z0-9_]+)"\)`)
	for _, folder := range []string{"cmd", "internal"} {
		walk(t, root, folder, ".go", func(path, text string) {
			if strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/internal/lab/") {
				return
			}
			for _, match := range literal.FindAllStringSubmatch(text, -1) {
				if name := match[1] + match[2]; match[2] != "" || folder == "cmd" {
					defaults["$"+name] = ""
				}
			}
		})
	}
	for _, match := range regexp.MustCompile(`\$\{([A-Z_]+):-`).FindAllStringSubmatch(readText(t, root, "scripts/launch"), -1) {
		defaults["$"+match[1]] = ""
	}
}

// testNames returns the names of all tests, and of the sessions of those that run
// sessions.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, folder := range []string{"cmd", "internal", "nix"} {
		walk(t, root, folder, "_test.go", func(_, text string) {
			for _, match := range function.FindAllStringSubmatch(text, -1) {
				names[match[1]] = true
			}
		})
	}
	for test, folder := range map[string]string{"TestScripts": "script", "TestNixScripts": "nix", "TestTrust": "trust"} {
		sessions, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
		require.NoError(t, err)
		require.NotEmpty(t, sessions)
		for _, session := range sessions {
			names[test+"/"+strings.TrimSuffix(filepath.Base(session), ".txtar")] = true
		}
	}
	return names
}

func walk(t *testing.T, root, folder, suffix string, visit func(path, text string)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join(root, folder), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, suffix) {
			visit(path, readText(t, path))
		}
		return err
	}))
}

func readText(t *testing.T, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(content)
}

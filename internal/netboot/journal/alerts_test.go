package journal_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
)

// module is the folder with the files for Prometheus and Grafana.
func module(t *testing.T, file string) string {
	return filepath.Join(lab.Root(t), "nix", "modules", "ec-netboot", file)
}

// The alert rules do what they say on series such as the server has, by promtool.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool := lab.Tool(t, "prometheus", "promtool")
	for _, args := range [][]string{{"check", "rules", module(t, "alerts.yaml")}, {"test", "rules", "testdata/alerts_test.yaml"}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "promtool %q: %s", args, out)
	}
}

// Alert rules and dashboard use no series that the server does not have.
func TestSeriesOfAlertsAndDashboard(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.stage("boot-v2026.02.28")
	s.switchTo("boot-v2026.02.28")
	s.boot(client(1), journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64})
	require.NoError(t, s.state.SetLastStaging(t.Context(), nil))
	metrics := get(t, s.url+"/metrics")
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		content, err := os.ReadFile(module(t, file))
		require.NoError(t, err)
		if strings.HasSuffix(file, ".json") {
			require.True(t, json.Valid(content), file)
		}
		used := regexp.MustCompile(`netboot_[a-z_]+`).FindAllString(string(content), -1)
		assert.NotEmpty(t, used)
		for _, name := range used {
			if name == "netboot_build_info" { // of the program: TestVersionIsAMetric
				continue
			}
			assert.Contains(t, metrics, "\n"+name, "%s", file)
		}
	}
}

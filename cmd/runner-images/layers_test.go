package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// imports are what each package of internal may import of the others, so that a
// step knows neither the one before nor the one after it. One that is not
// listed imports none of them.
var imports = map[string][]string{
	"artifact": {"checksum", "disk", "ipxe", "size", "transfer"},
	"checksum": {"disk", "transfer"},
	"nix":      {"artifact", "redact", "size"},
	"plan":     {"artifact", "redact", "release"},
	"release":  {"checksum", "disk", "redact", "release", "transfer"},
	"report":   {"redact", "size"},
	"trust":    {"artifact", "checksum", "redact"},
	"verify":   {"artifact", "checksum", "ipxe", "release", "transfer", "trust"},
	"workflow": {"artifact", "redact"},
	// The boot server's rooms.
	"netboot/journal":   {"disk", "netboot/machine", "netboot/state", "size"},
	"netboot/proxydhcp": {"netboot/journal", "netboot/machine"},
	"netboot/serve":     {"ipxe", "netboot/journal", "netboot/limit", "netboot/machine", "netboot/proxydhcp", "netboot/state", "netboot/tftp", "redact"},
	"netboot/stage":     {"artifact", "checksum", "netboot/machine", "netboot/state", "release", "size", "transfer"},
	"netboot/state":     {"disk", "netboot/machine", "release", "transfer"},
	"netboot/tftp":      {"netboot/journal", "netboot/limit"},
	// Look at the steps' needs, and string them together.
	"doctor": {"disk", "netboot/serve", "nix", "release", "size"},
	"deploy": {"artifact", "checksum", "disk", "nix", "plan", "redact", "release", "report", "size", "trust", "verify"},
}

func TestLayers(t *testing.T) {
	t.Parallel()
	const module = "every.channel/runner-images/"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var listed struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		path, internal := strings.CutPrefix(listed.ImportPath, module+"internal/")
		name := room(path)
		for _, imported := range listed.Imports {
			if strings.HasSuffix(imported, "/go-githubactions") {
				assert.Equal(t, "report", name, "only the report knows of Actions")
			}
			imported, ours := strings.CutPrefix(imported, module+"internal/")
			imported = room(imported)
			if internal && ours {
				assert.True(t, slices.Contains(imports[name], imported), "%s must not import %s", path, imported)
			}
		}
	}
}

// room returns the name in imports of a package of internal: its first folder, or
// its second too where the first has several rooms.
func room(path string) string {
	parts := strings.Split(path, "/")
	if parts[0] == "netboot" {
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return parts[0]
}

package action

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/workflow"
)

// TestWrittenWorkflow has init write the workflow of a repository, and does what it says
// then: the workflow runs as it is, but for the commit of the checkout action, for
// which there is a stand-in.
func TestWrittenWorkflow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.t = t
	s.Push(t, s.organisationRepository("every", "runner-images"), projectFiles(t), "v1")
	program := filepath.Join(t.TempDir(), "runner-images")
	sh(t, lab.Root(t), "go build -o '"+program+"' ./cmd/runner-images")

	// Two images of testdata's flake: the others of its systems are broken.
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(lab.Root(t), "testdata/flake"))))
	require.NoError(t, os.Rename(filepath.Join(folder, "flake.nix"), filepath.Join(folder, "systems.nix")))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "flake.nix"), []byte(`{
  outputs = { self }: {
    nixosConfigurations = with (import ./systems.nix).outputs { inherit self; }; {
      kiosk = nixosConfigurations.ec-runner-x86_64-iso;
      kiosk-pxe = nixosConfigurations.ec-runner-x86_64-netboot;
    };
  };
}
`), 0o644))
	sh(t, folder, "git init --quiet --initial-branch=main; git add .")
	command := exec.CommandContext(t.Context(), program, "init", "--action", s.URL+"/every/runner-images@v1")
	command.Dir = folder
	nix := lab.Nix(t)
	command.Env = append(nix.Env(), "PATH="+filepath.Dir(nix.Program)+":"+os.Getenv("PATH"))
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "kiosk, kiosk-pxe")
	assert.Contains(t, string(out), "label "+workflow.Label)

	path := filepath.Join(folder, workflow.Path)
	text := strings.Replace(string(read(t, path)), "11d5960a326750d5838078e36cf38b85af677262", s.actions["checkout"], 1)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	s.repository = s.CreateRepository(t, "kiosk", false)
	s.Push(t, s.repository, folder, "boot-v1")
	require.Equal(t, "success", s.run(0))
	names := s.release("boot-v1").names()
	slices.Sort(names)
	assert.Equal(t, []string{"SHA256SUMS.txt", "kiosk-boot-v1.iso", "kiosk-pxe-boot-v1.tar.gz", "provenance.intoto.jsonl"}, names)
	s.download(s.release("boot-v1"))
}

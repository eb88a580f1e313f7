package deploy

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/trust"
)

// A checkout on this machine is named by what others can get; all else as Nix
// names it, without what differs between copies of the same source.
func TestFlakeOf(t *testing.T) {
	t.Parallel()
	build := trust.Build{Repository: "https://forge.example/every/channel", Commit: "c0ffee", Ref: "refs/tags/boot-v1"}
	for _, c := range []struct {
		locked, revision string
		build            trust.Build
		want             string
	}{
		{"git+file:///srv/x?shallow=1&ref=refs/heads/main&rev=c0ffee", "c0ffee", build, "git+https://forge.example/every/channel?ref=refs/tags/boot-v1&rev=c0ffee"},
		{"git+file:///srv/x?dir=nix/images&rev=c0ffee", "c0ffee", build, "git+https://forge.example/every/channel?dir=nix/images&ref=refs/tags/boot-v1&rev=c0ffee"},
		{"git+file:///srv/x?rev=c0ffee", "c0ffee", trust.Build{Repository: build.Repository, Commit: "c0ffee"}, "git+https://forge.example/every/channel?rev=c0ffee"},
		{"git+file:///srv/x?rev=f1a4e", "f1a4e", build, "git+file:///srv/x?rev=f1a4e"},
		{"git+file:///srv/x?rev=c0ffee", "c0ffee", trust.Build{Commit: "c0ffee"}, "git+file:///srv/x?rev=c0ffee"},
		{"path:/srv/x?lastModified=1&narHash=sha256-1%3D", "", build, "path:/srv/x"},
		{"github:every/channel/c0ffee?narHash=sha256-1%3D", "c0ffee", build, "github:every/channel/c0ffee"},
		{"https://forge.example/x.tar.gz", "", build, "https://forge.example/x.tar.gz"},
	} {
		source := nix.Metadata{LockedURL: c.locked, Revision: c.revision, NARHash: "sha256-1", Inputs: []nix.Input{{Name: "nixpkgs", Revision: "b18a4b9"}}}
		assert.Equal(t, trust.Flake{
			URL: c.want, Revision: c.revision, NARHash: "sha256-1", Inputs: []trust.Input{{Name: "nixpkgs", Revision: "b18a4b9"}},
		}, flakeOf(source, c.build))
	}
}

// Package nix builds images with the nix command: it evaluates and builds all
// of them in one call, tells of its progress, and explains a failure by the
// derivation that failed and the end of its log.
package nix

// An Image is something to build.
type Image struct {
	Name        string // "ec-runner-x86_64-netboot"
	Installable string // ".#nixosConfigurations.….config.system.build.netboot"
}

// A Result is an image that was built.
type Result struct {
	Image
	Derivation string // the store path of the derivation, ending in .drv
	Output     string // the store path of the build's output
	Link       string // a symlink to Output that is a GC root while it stands
}

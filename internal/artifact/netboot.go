package artifact

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"every.channel/runner-images/internal/ipxe"
)

// BundleExtension is what the names of netboot bundles end in.
const BundleExtension = ".tar.gz"

// NamedArchitecture returns the architecture that a bundle's name says, as that of
// ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz does before "-netboot-", and whether
// it says one.
func NamedArchitecture(asset string) (architecture string, ok bool) {
	image, _, ok := strings.Cut(asset, "-netboot-")
	if !ok || !strings.HasSuffix(asset, BundleExtension) {
		return "", false
	}
	for _, architecture := range []string{x86_64, aarch64} {
		if image == architecture || strings.HasSuffix(image, "-"+architecture) {
			return architecture, true
		}
	}
	return "", false
}

// MayBeBundle reports whether a file of a release may be a bundle by its name: it says an
// architecture, or is that of an image of the tag that is a .tar.gz.
func MayBeBundle(asset, tag string) bool {
	_, named := NamedArchitecture(asset)
	return named || strings.HasSuffix(asset, FileName("", tag, BundleExtension))
}

// ChooseBundle returns the one of the bundles for an architecture that a boot server
// takes: the only one, or that of the fleet's own image. Otherwise it is an error.
func ChooseBundle(architecture string, assets []string) (string, error) {
	own := slices.DeleteFunc(slices.Clone(assets), func(asset string) bool {
		return !strings.HasPrefix(asset, "ec-runner-"+architecture+"-netboot-")
	})
	if len(own) == 1 { // a repository may have other images than the fleet's
		return own[0], nil
	}
	if len(assets) != 1 {
		return "", fmt.Errorf("it has %d netboot bundles for %s: %s; keep one of them", len(assets), architecture, strings.Join(assets, ", "))
	}
	return assets[0], nil
}

// BundleArchitecture returns the architecture of the kernel in a netboot bundle, or "" if
// that does not say it. Any file that is not a netboot bundle is an error.
func BundleArchitecture(ctx context.Context, r io.Reader, limits Limits) (architecture string, err error) {
	missing := []string{ipxe.KernelName, ipxe.InitrdName, ipxe.ScriptName}
	err = WalkBundle(ctx, r, limits, func(entry Entry, content io.Reader) error {
		at := slices.Index(missing, entry.Name)
		if at < 0 {
			return fmt.Errorf("it has a file %q, as no netboot bundle does", entry.Name)
		}
		missing = slices.Delete(missing, at, at+1)
		if entry.Name != ipxe.KernelName {
			return nil
		}
		header, err := io.ReadAll(io.LimitReader(content, KernelHeaderSize))
		if err == nil {
			architecture, err = KernelArchitecture(header)
		}
		return err
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("it has no %s, as a netboot bundle does", strings.Join(missing, ", "))
	}
	return architecture, err
}

// kernelArchitecture returns the architecture of a kernel, or "" if that
// does not say it.
func kernelArchitecture(kernel io.Reader) (string, error) {
	header, err := io.ReadAll(io.LimitReader(kernel, KernelHeaderSize))
	if err != nil {
		return "", err
	}
	return KernelArchitecture(header)
}

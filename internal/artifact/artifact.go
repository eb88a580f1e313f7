// Package artifact turns the output of a NixOS image's build into the file that a
// release carries: a bundle of a netboot image's kernel, initrd and script, an ISO,
// or an SD image. It also reads bundles that come from elsewhere, without trusting
// them.
package artifact

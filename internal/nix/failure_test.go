package nix_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/nix"
)

func TestBuildErrorNamesImageDerivationAndLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(brokenDeeper, isoX86, brokenIso, netbootX86, "other-machine", "full-disk")
	request.LinkDir = t.TempDir()
	_, err := b.Build(t.Context(), request)
	var failed *nix.BuildError
	require.ErrorAs(t, err, &failed)
	t.Log(err)

	assert.Equal(t, []string{isoX86, netbootX86}, failed.Built, "Nix goes on after a failure")
	require.Len(t, failed.Failures, 4)

	dependency := failed.Failures[0]
	assert.Equal(t, []string{brokenDeeper}, dependency.Images)
	assert.Equal(t, "initrd-linux-6.18.13-broken", nix.Name(dependency.Derivation))
	assert.True(t, dependency.Dependency)
	assert.Equal(t, nix.BuilderFailed, dependency.Kind)
	require.Equal(t, "broken-dependency was not built: the dependency initrd-linux-6.18.13-broken: the builder ended with exit code 1", dependency.Sentence())
	require.Len(t, dependency.Log, 25)
	assert.Equal(t, "copying module 17 of 41", dependency.Log[0])
	assert.Equal(t, "modprobe: FATAL: Module r8169 not found in directory lib/modules/6.18.13", dependency.Log[24])
	assert.Contains(t, err.Error(), fmt.Sprintf("broken-dependency was not built: the dependency initrd-linux-6.18.13-broken: the builder ended with exit code 1\n"+
		"  the end of its log (all of it: nix log %s):\n  > copying module 17 of 41\n", dependency.Derivation))

	own := failed.Failures[1]
	require.Equal(t, "broken-iso was not built: nixos-broken.iso: the builder ended with exit code 5", own.Sentence())
	assert.False(t, own.Dependency)
	assert.Equal(t, []string{"xorriso : FAILURE : Cannot determine attributes of source file 'isolinux.bin'"}, own.Log)

	machine := failed.Failures[2]
	require.Equal(t, "other-machine was not built: nixos-other-machine.iso: it must be built on pdp11-unix, and this machine is x86_64-linux", machine.Sentence())
	assert.Equal(t, nix.WrongMachine, machine.Kind)
	assert.Contains(t, machine.Hint, "--builders")

	disk := failed.Failures[3]
	assert.Equal(t, nix.DiskFull, disk.Kind)
	assert.Contains(t, err.Error(), "\n  the disk of the store, or of the folder for builds, is full; nix-collect-garbage frees")
}

func TestBuildErrorCanBeMadeByManyImages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(brokenDeeper, brokenDeeper)
	request.Images[1].Name = "another"
	_, err := b.Build(t.Context(), request)
	var failed *nix.BuildError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failures, 1)
	require.Equal(t, "broken-dependency, another were not built: the dependency initrd-linux-6.18.13-broken: the builder ended with exit code 1", failed.Failures[0].Sentence())
	assert.Empty(t, failed.Built)
}

func TestBuildErrorTellsOfALimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request("slow")
	request.Args = []string{"--timeout", "1"}
	_, err := b.Build(t.Context(), request)
	var failed *nix.BuildError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "slow was not built: nixos-slow.iso: the builder was ended after 1 seconds, which is the limit", failed.Failures[0].Sentence())
	assert.Equal(t, []string{"compressing the squashfs"}, failed.Failures[0].Log)
}

package plan

import (
	"fmt"
	"strings"
)

// The names of the inputs, as action.yml spells them. A flag has the same name
// with hyphens, the environment's variable is INPUT_ and the name in capitals.
const (
	ReleaseTag          = "release_tag"
	PublishRelease      = "publish_release"
	BuildX8664Netboot   = "build_x86_64_netboot"
	BuildX8664ISO       = "build_x86_64_iso"
	BuildAarch64Netboot = "build_aarch64_netboot"
	BuildAarch64SDImage = "build_aarch64_sdimage"
	Images              = "images"
	Flake               = "flake"
	NixArgs             = "nix_args"
	OutputDir           = "output_dir"
	MirrorHosts         = "mirror_hosts"
	Prerelease          = "prerelease"
	ForgeURL            = "forge_url"
	Repository          = "repository"
	Token               = "token"
	CAFile              = "ca_file"
	VerifyUploads       = "verify_uploads"
	SigningKey          = "signing_key"
	NixCopyTo           = "nix_copy_to"
)

// An Input is one setting of a run. It is an input of the action, a flag and a
// variable of the environment at once.
type Input struct {
	Name        string // as in action.yml: "release_tag"
	Default     string // the value where none is given; "" where it depends on the run
	Boolean     bool   // takes true or false, in any case
	Secret      bool   // never a flag's value and never shown
	Description string // one line, as --help and action.yml show it
}

// Flag returns the input's name on the command line, without the dashes.
func (i Input) Flag() string { return strings.ReplaceAll(i.Name, "_", "-") }

// Variable returns the name of the environment's variable that holds the input.
func (i Input) Variable() string { return "INPUT_" + strings.ToUpper(i.Name) }

// Inputs returns all inputs, in the order in which help and README show them.
func Inputs() []Input {
	return []Input{
		{Name: ReleaseTag, Description: "Tag of the release. Default: the pushed boot-v* tag, else boot-<short sha>"},
		{Name: PublishRelease, Default: "true", Boolean: true, Description: "Publish the release; false builds and packages only and leaves the files in output_dir"},
		{Name: BuildX8664Netboot, Default: "true", Boolean: true, Description: "Build the x86_64 netboot bundle"},
		{Name: BuildX8664ISO, Default: "true", Boolean: true, Description: "Build the x86_64 installer ISO"},
		{Name: BuildAarch64Netboot, Default: "false", Boolean: true, Description: "Build the aarch64 netboot bundle (needs an aarch64-capable runner or remote builder)"},
		{Name: BuildAarch64SDImage, Default: "false", Boolean: true, Description: "Build the aarch64 SD image (needs an aarch64-capable runner or remote builder)"},
		{Name: Images, Description: "Images to build in place of the four above, one line per image: its name and its installable"},
		{Name: Flake, Default: ".", Description: "Flake that holds the images"},
		{Name: NixArgs, Description: "Extra arguments to nix build, split as a shell would (--builders ..., --option ...)"},
		{Name: OutputDir, Description: "Folder for the packaged files. Default: dist, with links in place of copies where the release has them"},
		{Name: MirrorHosts, Default: "codeberg.org", Description: "Hosts that only mirror the repository: a run there says so, does nothing and succeeds"},
		{Name: Prerelease, Default: "false", Boolean: true, Description: "Mark the release as a prerelease"},
		{Name: ForgeURL, Description: "Address of the Forgejo or Gitea server, or file:///folder. Default: the server of the run"},
		{Name: Repository, Description: "Repository of the release, owner/name. Default: the repository of the run"},
		{Name: Token, Secret: true, Description: "Token that may write releases. Default: the token of the run"},
		{Name: CAFile, Description: "Certificates (a file in PEM) to trust besides the system's, for a forge with its own authority"},
		{Name: VerifyUploads, Default: "size", Description: "How to check what the server stored: size, or sha256 to read every asset back"},
		{Name: SigningKey, Secret: true, Description: "Private SSH key without a passphrase that signs SHA256SUMS.txt and the provenance"},
		{Name: NixCopyTo, Description: "Store to copy what was built to, so that runners substitute it (s3://..., ssh-ng://..., file://...)"},
	}
}

// An InputError is one input with a value that cannot be used.
type InputError struct {
	Input string // the input's name
	Value string // as given; never a secret
	Why   string // what is wrong with it, and what to give instead
}

func (e *InputError) Error() string { return fmt.Sprintf("%s %q: %s", e.Input, e.Value, e.Why) }

// InputErrors are all the inputs of a run that cannot be used.
type InputErrors []*InputError

func (e InputErrors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each input's error to errors.As.
func (e InputErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

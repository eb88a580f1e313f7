// Package plan decides what a run does before anything is done: which images to
// build, under which tag to release them and where, or that there is nothing to
// do. It is pure: the same inputs and context give the same plan.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// TagPrefix begins the tags whose push makes a release.
const TagPrefix = release.TagPrefix + "v"

// A Context describes where a run takes place: from the runner's GITHUB_...
// variables, or from git at a terminal. Each field may be empty.
type Context struct {
	Ref        string // "refs/tags/boot-v2026.02.28"
	SHA        string // of the commit that the run is about
	ServerURL  string // "https://forge.example"
	Repository string // "owner/name"

	// Tags are those of the commit that begin with TagPrefix, where no Ref says which
	// of them it is about.
	Tags []string

	// NoCommit and NoRemote are why it is not known which commit this is, and which
	// repository; nil where nothing is known of that either.
	NoCommit, NoRemote error

	// NeedToken makes it an error to publish to a server without a token. A plan
	// that is only shown needs none.
	NeedToken bool
}

// A Plan is what a run does. Its JSON form is what `runner-images plan --json`
// prints.
type Plan struct {
	Skipped    bool             `json:"skipped"`
	Reason     string           `json:"reason"` // why the run is skipped
	ReleaseTag string           `json:"release_tag"`
	Publish    bool             `json:"publish"`
	Flake      string           `json:"flake"`
	Images     []artifact.Image `json:"images"`

	NixArgs       []string `json:"-"`
	OutputDir     string   `json:"-"`
	KeepsFiles    bool     `json:"-"` // in OutputDir, for somebody who has asked for them
	Prerelease    bool     `json:"-"`
	ForgeURL      string   `json:"-"`
	Repository    string   `json:"-"`
	Commit        string   `json:"-"`
	CAFile        string   `json:"-"`
	VerifyUploads string   `json:"-"`
	NixCopyTo     string   `json:"-"`

	// Notes are sentences about what whoever runs it may not expect.
	Notes []string `json:"-"`
}

// Make returns the plan for the given inputs. Inputs that are missing or empty take
// their defaults: a push passes the inputs of a workflow's dispatch as empty strings.
// The error is an InputErrors with every input that cannot be used.
//
// On a host that only mirrors, the plan is skipped whatever the other inputs are, so
// that a mirror's runs succeed.
func Make(given map[string]string, c Context) (Plan, error) {
	r := reader{given: given}
	p := r.release(c)
	p.Flake = r.flake()
	p.NixArgs = r.nixArgs()
	p.NixCopyTo = r.store()
	p.Images = r.images(p.Flake)
	r.checkNames(p)
	if isForNetboot(p.Images) && p.ReleaseTag != "" && !strings.HasPrefix(p.ReleaseTag, release.TagPrefix) {
		p.Notes = append(p.Notes, fmt.Sprintf("boot servers look for the latest release only among tags that begin with %s; they stage this one with --release-tag %s", release.TagPrefix, p.ReleaseTag))
	}
	p.Notes = append(p.Notes, bundlesForTheSame(p)...)
	if host, ok := r.mirror(c.ServerURL); ok {
		return Plan{
			Skipped:    true,
			Reason:     fmt.Sprintf("%s only mirrors this repository (%s): nothing is built or published there", host, MirrorHosts),
			ReleaseTag: p.ReleaseTag,
			Flake:      p.Flake,
			Images:     []artifact.Image{},
			OutputDir:  p.OutputDir,
		}, nil
	}
	return p, r.err()
}

// ForFiles is Make for commands that take files: they read no flake, and work on a
// mirror too.
func ForFiles(given map[string]string, c Context) (Plan, error) {
	r := reader{given: given, onlyPublishes: true}
	p := r.release(c)
	return p, r.err()
}

// ForVerify is Make for the comparison with a published release. The release may have
// any of the images, so all are selected, and it can be compared on a mirror too.
// Without needTag the tag may stay unknown, as for files in a folder: it is empty
// then, unless one is given.
func ForVerify(given map[string]string, c Context, needTag bool) (Plan, error) {
	all := map[string]string{}
	maps.Copy(all, given)
	all[PublishRelease] = "false"
	for _, own := range ownImages {
		all[own.input] = "true"
	}
	noTag := all[ReleaseTag] == "" && !needTag
	if noTag {
		all[ReleaseTag] = TagPrefix // any that is valid
	}
	r := reader{given: all}
	p := r.release(c)
	if noTag {
		p.ReleaseTag = ""
	}
	if needTag && p.ForgeURL == "" {
		r.fail(ForgeURL, "", "there is no forge to compare with; give its address, for example https://forge.example with --repository owner/name, or file:///folder")
	}
	p.Flake = r.flake()
	p.NixArgs = r.nixArgs()
	p.Images = r.images(p.Flake)
	return p, r.err()
}

// reader turns the given inputs into values and collects their errors.
type reader struct {
	given         map[string]string
	errors        InputErrors
	onlyPublishes bool            // the command has nothing else to do
	said          map[string]bool // causes that an error has
}

func (r *reader) err() error {
	if len(r.errors) == 0 {
		return nil
	}
	return r.errors
}

// release reads the inputs about the release and its files.
func (r *reader) release(c Context) Plan {
	p := Plan{
		ReleaseTag:    r.releaseTag(c),
		Publish:       r.boolean(PublishRelease),
		OutputDir:     cmp.Or(r.value(OutputDir), "dist"),
		Prerelease:    r.boolean(Prerelease),
		Commit:        c.SHA,
		CAFile:        r.value(CAFile),
		VerifyUploads: r.oneOf(VerifyUploads, "size", "sha256"),
	}
	p.KeepsFiles = r.value(OutputDir) != "" || !p.Publish
	p.ForgeURL, p.Repository = r.destination(c, p.Publish)
	if len(c.Tags) > 1 && p.ReleaseTag != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("this commit has the tags %s; the release is %s", strings.Join(c.Tags, " and "), p.ReleaseTag))
	}
	return p
}

// isForNetboot reports whether an image is a netboot bundle, by its name or installable.
func isForNetboot(images []artifact.Image) bool {
	return slices.ContainsFunc(images, func(image artifact.Image) bool {
		return strings.HasSuffix(image.Name, "netboot") || strings.HasSuffix(image.Installable, ".netboot")
	})
}

// bundlesForTheSame returns notes on bundles that are for the same machines by their names.
// Boot servers stage none of a release that has such bundles.
func bundlesForTheSame(p Plan) (notes []string) {
	bundles := map[string][]string{}
	for _, image := range p.Images {
		asset := artifact.FileName(image.Name, p.ReleaseTag, artifact.BundleExtension)
		if architecture, ok := artifact.NamedArchitecture(asset); ok {
			bundles[architecture] = append(bundles[architecture], asset)
		}
	}
	for _, architecture := range slices.Sorted(maps.Keys(bundles)) {
		if _, err := artifact.ChooseBundle(architecture, bundles[architecture]); err != nil {
			notes = append(notes, fmt.Sprintf("boot servers will not stage the release %s: %v", p.ReleaseTag, err))
		}
	}
	return notes
}

// because is the end of a sentence about what is not known: why that is so, once.
func (r *reader) because(err error) string {
	if err == nil || r.said[err.Error()] {
		return ""
	}
	if r.said == nil {
		r.said = map[string]bool{}
	}
	r.said[err.Error()] = true
	return " (" + err.Error() + ")"
}

func (r *reader) fail(input, value, why string, args ...any) {
	r.errors = append(r.errors, &InputError{Input: input, Value: redact.Text(value), Why: fmt.Sprintf(why, args...)})
}

// value returns what was given for an input, or its default.
func (r *reader) value(name string) string {
	if value := strings.TrimSpace(r.given[name]); value != "" {
		return value
	}
	for _, input := range Inputs() {
		if input.Name == name {
			return input.Default
		}
	}
	panic("no input " + name)
}

func (r *reader) boolean(name string) bool {
	value := r.value(name)
	switch strings.ToLower(value) {
	case "true":
		return true
	case "false":
		return false
	}
	r.fail(name, value, "takes true or false")
	return false
}

func (r *reader) oneOf(name string, allowed ...string) string {
	value := r.value(name)
	if !slices.Contains(allowed, strings.ToLower(value)) {
		r.fail(name, value, "takes %s", strings.Join(allowed, " or "))
	}
	return strings.ToLower(value)
}

// nixArgs refuses arguments that would only fail after the build.
func (r *reader) nixArgs() []string {
	value := r.value(NixArgs)
	words, err := splitWords(value)
	switch {
	case err == nil:
	case redact.Text(value) != value: // the error may quote a part of what is hidden
		r.fail(NixArgs, value, "has a quote that is not closed, or something that a shell would replace; put it in single quotes if it is meant literally")
	default:
		r.fail(NixArgs, value, "%v", err)
	}
	for _, word := range words {
		switch option, _, _ := strings.Cut(word, "="); option {
		case "--store":
			r.fail(NixArgs, option, "what is built must be in this machine's own store to be packaged; to build on another one, use --builders")
		case "--dry-run":
			r.fail(NixArgs, option, "builds nothing that could be packaged; runner-images plan tells what a run would do")
		}
	}
	return words
}

func (r *reader) flake() string {
	value := r.value(Flake)
	if flake, _, found := strings.Cut(value, "#"); found {
		r.fail(Flake, value, "takes a flake without an attribute, for example %q; attributes go into %s", redact.Text(flake), Images)
	}
	return value
}

// store returns the address of the store to copy to.
func (r *reader) store() string {
	value := r.value(NixCopyTo)
	if value == "" {
		return ""
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme == "" || !strings.Contains(value, "://"):
		r.fail(NixCopyTo, wrongAddress(value), "takes the address of a store, for example s3://bucket?region=eu-central-1, ssh-ng://host or file:///srv/cache")
	case u.User != nil && (strings.HasPrefix(u.Scheme, "http") || hasPassword(u)):
		r.fail(NixCopyTo, value, "an address must not carry a password; Nix takes it from its netrc-file or from the environment")
	}
	return value
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

func (r *reader) releaseTag(c Context) string {
	tag := r.value(ReleaseTag)
	if tag == "" && len(c.Tags) > 1 {
		r.fail(ReleaseTag, "", "this commit has the tags %s; give the one to release", strings.Join(c.Tags, " and "))
		return ""
	}
	if tag == "" && (c.SHA == "" || c.NoCommit == nil) {
		tag = defaultTag(c)
	}
	if tag == "" {
		r.fail(ReleaseTag, "", "there is no commit to name the release after; give a tag, for example boot-v2026.02.28%s", r.because(c.NoCommit))
		return ""
	}
	if ref, ok := strings.CutPrefix(tag, "refs/"); ok {
		r.fail(ReleaseTag, tag, "takes the name of a tag alone: %s", strings.TrimPrefix(ref, "tags/"))
	} else if err := release.CheckTag(tag); err != nil {
		r.fail(ReleaseTag, tag, "%v", err)
	}
	return tag
}

// shortSHA is the length of git's short form of a commit.
const shortSHA = 7

func defaultTag(c Context) string {
	if tag, ok := strings.CutPrefix(c.Ref, "refs/tags/"); ok && strings.HasPrefix(tag, TagPrefix) {
		return tag
	}
	if len(c.SHA) >= shortSHA {
		return release.TagPrefix + c.SHA[:shortSHA]
	}
	return ""
}

// ownImages are the images of this project's flake, and of every.channel's.
var ownImages = []struct{ input, name, attribute string }{
	{BuildX8664Netboot, "ec-runner-x86_64-netboot", "netboot"},
	{BuildX8664ISO, "ec-runner-x86_64-iso", "isoImage"},
	{BuildAarch64Netboot, "ec-runner-aarch64-netboot", "netboot"},
	{BuildAarch64SDImage, "ec-runner-aarch64-sdimage", "sdImage"},
}

func (r *reader) images(flake string) []artifact.Image {
	var images []artifact.Image
	valid := len(r.errors)
	for _, own := range ownImages {
		if r.boolean(own.input) {
			images = append(images, artifact.Image{
				Name:        own.name,
				Installable: fmt.Sprintf("%s#nixosConfigurations.%s.config.system.build.%s", flake, own.name, own.attribute),
			})
		}
	}
	if lines := r.value(Images); lines != "" {
		images = r.imageLines(lines, flake)
	}
	if len(images) == 0 && len(r.errors) == valid {
		r.fail(Images, r.value(Images), "no image is selected; set one of the build_... inputs to true, or list images")
	}
	return images
}

// maxName is the number of bytes that an image's name and the tag may have with the
// hyphen between them: forges and file systems allow 255 for a file name, which also
// has an extension, and a prefix during an upload.
const maxName = 180

// checkNames finds names that are too long before the build.
func (r *reader) checkNames(p Plan) {
	for _, image := range p.Images {
		if len(image.Name)+len("-")+len(p.ReleaseTag) > maxName {
			r.fail(ReleaseTag, p.ReleaseTag, "with the name %s before it, it is too long for a file's name; let both have at most %d bytes", image.Name, maxName-len("-"))
			return
		}
	}
}

func (r *reader) imageLines(lines, flake string) []artifact.Image {
	var images []artifact.Image
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		name, installable := imageLine(line)
		if name == "" {
			continue
		}
		switch {
		case installable == "":
			r.fail(Images, line, "a line is an image's name and its installable, for example my-iso .#nixosConfigurations.my-iso.config.system.build.isoImage")
		case strings.HasPrefix(installable, "-"):
			r.fail(Images, line, "an installable does not begin with a dash; options go into %s", NixArgs)
		case hasMore(installable):
			r.fail(Images, line, "a line has one installable; quote a name with blanks in it as Nix does (.#\"a b\"), and begin a comment with #")
		case !artifact.ValidName(name):
			r.fail(Images, line, "the name %q begins a file's name: use letters, digits and . _ + -", name)
		case slices.ContainsFunc(images, func(i artifact.Image) bool { return i.Name == name }):
			r.fail(Images, line, "the name %q is already taken by another line", name)
		default:
			images = append(images, artifact.Image{Name: name, Installable: inFlake(installable, flake)})
		}
	}
	return images
}

// imageLine splits a line into an image's name and its installable, either of which may
// be missing, and leaves a comment out. A comment is a # at the beginning of a word, as
// in a shell; but an installable may begin with it, as in "name #attribute".
func imageLine(line string) (name, installable string) {
	if strings.HasPrefix(line, "#") {
		return "", ""
	}
	name, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	rest = strings.TrimSpace(rest)
	quoted := false
	for i, c := range rest {
		switch {
		case c == '"': // of an attribute's name
			quoted = !quoted
		case c != '#' || quoted:
		case i > 0 && rest[i-1] == ' ', i == 0 && (rest == "#" || rest[1] == ' ' || rest[1] == '#'):
			return name, strings.TrimSpace(rest[:i])
		}
	}
	return name, rest
}

// hasMore reports whether a blank outside of quotes ends an attribute.
func hasMore(installable string) bool {
	_, attribute, _ := strings.Cut(inFlake(installable, ""), "#")
	for i, part := range strings.Split(attribute, `"`) {
		if i%2 == 0 && strings.Contains(part, " ") {
			return true
		}
	}
	return false
}

// inFlake completes an installable that is only an attribute of the flake.
func inFlake(installable, flake string) string {
	switch {
	case strings.HasPrefix(installable, "#"):
		return flake + installable
	case strings.Contains(installable, "#"), strings.HasPrefix(installable, "/"), strings.HasPrefix(installable, "."):
		return installable
	}
	return flake + "#" + installable
}

// mirror reports whether the server of the run only mirrors, and its host.
func (r *reader) mirror(serverURL string) (string, bool) {
	host := hostOf(serverURL)
	if host == "" {
		return "", false
	}
	for mirror := range strings.FieldsFuncSeq(r.value(MirrorHosts), isSeparator) {
		if hostOf(mirror) == host {
			return host, true
		}
	}
	return "", false
}

func isSeparator(c rune) bool { return strings.ContainsRune(", \t\r\n", c) }

// hostOf returns the host of an address, or of a host as it stands in a list, in
// lower case and without port and trailing dot, so that two can be compared.
func hostOf(address string) string {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
}

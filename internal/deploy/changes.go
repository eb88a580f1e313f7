package deploy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

const changesBegin = "### Changed since "

// An earlier is the release with which notes compare theirs.
type earlier struct {
	tag, url string
	builds   []trust.Build // none: there is no such release, or nothing to compare with
}

// changes says in Markdown what the release is made from that the release before it is
// not, by the provenance of both: with a key, as far as the key has signed it. It is
// empty where that cannot be told, which is no reason not to publish.
func (p *publication) changes(ctx context.Context, there release.Release, files []release.File, published []byte) string {
	if p.before == nil {
		p.before = p.lookBefore(ctx, there)
	}
	for _, file := range files {
		if file.Name == trust.ProvenanceFileName {
			published = file.Content
		}
	}
	builds := p.builds(ctx, p.plan.ReleaseTag, published)
	if len(p.before.builds) == 0 || len(builds) == 0 {
		return ""
	}
	return changesBegin + fmt.Sprintf("[%s](%s)\n\n", p.before.tag, p.before.url) + difference(p.plan, basisOf(p.before.builds), basisOf(builds))
}

func (p *publication) lookBefore(ctx context.Context, there release.Release) *earlier {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found, err := p.releaseBefore(ctx, there)
	if err != nil || found.Draft || found.Tag == p.plan.ReleaseTag || !plainWord.MatchString(found.Tag) {
		return &earlier{}
	}
	provenance, err := p.store.ReadSmall(ctx, found, trust.ProvenanceFileName)
	if err != nil {
		return &earlier{}
	}
	return &earlier{found.Tag, found.URL, p.builds(ctx, found.Tag, provenance)}
}

// releaseBefore returns the release that was the newest one when this one was published:
// the one that its notes name, if it is published, else the newest one now.
func (p *publication) releaseBefore(ctx context.Context, there release.Release) (release.Release, error) {
	if there.Tag != "" && !there.Draft {
		tag, found := comparedIn(there.Notes)
		if !found {
			return release.Release{}, release.ErrNotFound
		}
		return p.store.Release(ctx, tag)
	}
	prefix := ""
	if strings.HasPrefix(p.plan.ReleaseTag, plan.TagPrefix) {
		prefix = plan.TagPrefix // others may be releases of the repository's programs
	}
	return p.store.Latest(ctx, prefix)
}

var compared = regexp.MustCompile("(?m)^" + changesBegin + `\[([^\]]+)\]`)

// comparedIn finds the tag of the release with which notes compare theirs.
func comparedIn(notes string) (tag string, found bool) {
	words := compared.FindStringSubmatch(redact.Printable(notes))
	if words == nil || release.CheckTag(words[1]) != nil {
		return "", false
	}
	return words[1], true
}

// changesIn returns what changes has written into notes, after an empty line.
func changesIn(notes string) string {
	at := strings.LastIndex(notes, "\n"+changesBegin)
	if at < 0 {
		return ""
	}
	text, _, _ := strings.Cut(notes[at+1:], "\n### ")
	return "\n" + text
}

// builds returns the builds that a release's provenance has.
func (p *publication) builds(ctx context.Context, tag string, provenance []byte) []trust.Build {
	if p.key != nil {
		return p.key.Builds(ctx, tag, provenance)
	}
	var builds []trust.Build
	for _, line := range trust.ParseProvenance(provenance) {
		if line.Build.Tag == tag {
			builds = append(builds, line.Build)
		}
	}
	return builds
}

// A basis is what a release is made from, and what came of it, as far as its builds
// agree: where they do not, a version is empty.
type basis struct {
	sources map[string]trust.Input // by the names of the flake's inputs, and those below
	images  map[string]string      // hashes of what was built, by the names of the images
}

// Names of sources that no flake's input can have.
const (
	theRepository = "this repository"
	theFlake      = "the flake"
)

func basisOf(builds []trust.Build) basis {
	b := basis{map[string]trust.Input{}, map[string]string{}}
	add := func(name string, source trust.Input) {
		if same, there := b.sources[name]; there && version(same) != version(source) {
			source = trust.Input{}
		}
		b.sources[name] = source
	}
	for _, build := range builds {
		add(theRepository, trust.Input{URL: "git+" + build.Repository, Revision: build.Commit})
		if build.Flake.Revision != build.Commit { // it is elsewhere, or not committed
			add(theFlake, trust.Input{URL: build.Flake.URL, Revision: build.Flake.Revision, NARHash: build.Flake.NARHash})
		}
		for _, input := range build.Flake.Inputs {
			if plainWord.MatchString(input.Name) {
				add(input.Name, input)
			}
		}
		for _, image := range build.Images {
			if same, there := b.images[image.Name]; there && same != image.NARHash {
				image.NARHash = ""
			}
			b.images[image.Name] = image.NARHash
		}
	}
	return b
}

func version(source trust.Input) string { return cmp.Or(source.Revision, source.NARHash) }

// mostListed is how many sources, and how many images, notes list: provenance may be
// anybody's, and have more of them than a forge takes in a release's notes.
const mostListed = 200

// difference is a table of the sources that differ, and the images that do not.
func difference(p plan.Plan, was, is basis) string {
	names := slices.Collect(maps.Keys(is.sources))
	for name := range was.sources {
		if _, both := is.sources[name]; !both {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		first := func(name string) int { return slices.Index([]string{theFlake, theRepository}, name) }
		return cmp.Or(first(b)-first(a), strings.Compare(a, b))
	})
	var rows []string
	for _, name := range names {
		if row := row(p, name, was.sources, is.sources); row != "" {
			rows = append(rows, row)
		}
	}
	text := "Nothing that the images are made from.\n"
	if len(rows) > 0 {
		rows, more := listed(rows)
		text = "| Source | Then | Now | |\n|---|---|---|---|\n" + strings.Join(rows, "")
		if more > 0 {
			text += fmt.Sprintf("\nAnd %d more.\n", more)
		}
	}
	var same []string
	for _, name := range slices.Sorted(maps.Keys(is.images)) {
		if hash := is.images[name]; hash != "" && was.images[name] == hash {
			same = append(same, "`"+name+"`")
		}
	}
	if len(same) > 0 {
		same, more := listed(same)
		text += "\nBuilt to the same bytes as then: " + strings.Join(same, ", ")
		if more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		text += ".\n"
	}
	return text
}

// listed returns the first of them, and how many others there are.
func listed(all []string) (first []string, more int) {
	first = all[:min(len(all), mostListed)]
	return first, len(all) - len(first)
}

// row is the line of the table about one source, or empty if that is the same, or not
// known.
func row(p plan.Plan, name string, was, is map[string]trust.Input) string {
	then, hadIt := was[name]
	now, hasIt := is[name]
	switch {
	case hadIt && !plainWord.MatchString(version(then)), hasIt && !plainWord.MatchString(version(now)), version(then) == version(now):
		return ""
	case !hadIt:
		return fmt.Sprintf("| %s | | %s | new |\n", name, short(version(now)))
	case !hasIt:
		return fmt.Sprintf("| %s | %s | | gone |\n", name, short(version(then)))
	}
	link := ""
	if address := repositoryOf(p, now); address != "" && address == repositoryOf(p, then) && then.Revision != "" && now.Revision != "" {
		link = fmt.Sprintf("[compare](%s/compare/%s...%s)", address, then.Revision, now.Revision)
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", name, short(version(then)), short(version(now)), link)
}

// plainWord is what may stand in a table: provenance may be anybody's.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+=/-]{0,127}$`)

var gitHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// short is a version as people write it.
func short(version string) string {
	if gitHash.MatchString(version) {
		version = version[:12]
	}
	return "`" + version + "`"
}

var onGitHub = regexp.MustCompile(`^github:([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)/[0-9a-f]+$`)

// repositoryOf is the address of a source's repository, if its server has a page that
// compares two commits: this plan's forge, or GitHub.
func repositoryOf(p plan.Plan, source trust.Input) string {
	if found := onGitHub.FindStringSubmatch(source.URL); found != nil {
		return "https://github.com/" + found[1]
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(source.URL, "git+"), "?")
	path, here := strings.CutPrefix(strings.TrimSuffix(address, ".git"), p.ForgeURL+"/")
	if !here || !strings.HasPrefix(p.ForgeURL, "http") || !plainWord.MatchString(path) {
		return ""
	}
	return p.ForgeURL + "/" + path
}

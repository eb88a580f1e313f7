package deploy

import (
	"fmt"
	"regexp"
	"strings"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/size"
	"every.channel/runner-images/internal/trust"
)

// notes writes the part of a release's notes that belongs to this project, in
// Markdown: what the images were built from, which assets there are, what has changed,
// how to check them and how to boot from them.
func notes(p plan.Plan, origin, changes string, assets []artifact.Artifact, signed bool) string {
	var b strings.Builder
	if origin != "" {
		b.WriteString(origin + "\n\n")
	}
	b.WriteString(assetTable(assets))
	if changes != "" {
		b.WriteString("\n" + changes)
	}
	b.WriteString("\n### Verify\n\nIn the folder with the downloaded files:\n\n```\n")
	if signed {
		b.WriteString(checkSignature(p.ReleaseTag))
	}
	fmt.Fprintf(&b, "sha256sum --check --ignore-missing SHA256SUMS.txt\n```\n\n"+
		"Or rebuild the images from the flake and compare:\n\n```\nrunner-images verify %s\n```\n", flags(p))
	b.WriteString("\n### Boot\n")
	for _, asset := range assets {
		b.WriteString(howToBoot(p, asset.Name, notStaged(asset, assets)))
	}
	return b.String()
}

// noArchitecture is that of a .tar.gz of which neither the kernel nor the name says it;
// an empty one is that of a bundle into which nobody has looked.
const noArchitecture = "none"

// noBundle is why a boot server does not take such a file.
const noBundle = "it is no netboot bundle, or neither its kernel nor its name says for which machines it is"

// notStaged returns why a boot server does not take a bundle, or "" if it does.
func notStaged(asset artifact.Artifact, assets []artifact.Artifact) string {
	switch asset.Architecture {
	case noArchitecture:
		return noBundle
	case "":
		return ""
	}
	var same []string
	for _, other := range assets {
		if other.Architecture == asset.Architecture {
			same = append(same, other.Name)
		}
	}
	chosen, err := artifact.ChooseBundle(asset.Architecture, same)
	switch {
	case err != nil:
		return fmt.Sprintf("the release has %d for %s, which is one too many", len(same), asset.Architecture)
	case chosen != asset.Name:
		return "it takes `" + chosen + "` for " + asset.Architecture
	}
	return ""
}

// checkSignature is the command that checks the signature of the list, for any
// file allowed_signers that has the publisher's key.
func checkSignature(tag string) string {
	return fmt.Sprintf("ssh-keygen -Y verify -f allowed_signers -n %s -s %[2]s -I \"$(ssh-keygen -Y find-principals -f allowed_signers -s %[2]s | head -n 1)\" < %[3]s\n",
		quoted(trust.Namespace(tag)), trust.SignatureFileName, checksum.FileName)
}

const originBegins = "Built from commit "

// origin says what images were built from. The revision is the flake's, and
// empty where that is not in git or has changes.
func origin(p plan.Plan, flakeRevision string) string {
	if p.Commit == "" {
		return ""
	}
	commit := "`" + p.Commit + "`"
	if strings.HasPrefix(p.ForgeURL, "http") {
		commit = fmt.Sprintf("[%s](%s/%s/commit/%s)", commit, p.ForgeURL, p.Repository, p.Commit)
	}
	switch flakeRevision {
	case "":
		return originBegins + commit + "; the flake was not at a revision in git."
	case p.Commit:
		return originBegins + commit + ", the flake's revision too."
	default:
		return originBegins + commit + ", flake revision `" + flakeRevision + "`."
	}
}

// originIn finds what origin said when the other files of a release were
// published.
func originIn(notes string) string {
	for line := range strings.Lines(redact.Printable(notes)) {
		if strings.HasPrefix(line, originBegins) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// flags are what names the release on a command line.
func flags(p plan.Plan) string {
	flags := "--forge-url " + word(p.ForgeURL)
	if p.Repository != "" {
		flags += " --repository " + word(p.Repository)
	}
	return flags + " --release-tag " + word(p.ReleaseTag)
}

// word is a text as one word of a shell's command line.
func word(text string) string {
	if !special.MatchString(text) {
		return text
	}
	return quoted(text)
}

func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// special finds what a shell may take for something else than a part of a word.
var special = regexp.MustCompile(`[^A-Za-z0-9_./:@%+,=-]|^$`)

func howToBoot(p plan.Plan, asset, notStaged string) string {
	var how, commands string
	switch {
	case strings.HasSuffix(asset, ".tar.gz") && notStaged != "":
		return fmt.Sprintf("\n`%s` is not what a boot server stages: %s.\n", asset, notStaged)
	case strings.HasSuffix(asset, ".tar.gz"):
		how = "from the network: a boot server stages and serves it (or unpack it anywhere and chain its `netboot.ipxe` from iPXE)"
		commands = "runner-images netboot stage " + flags(p) + " --state-dir /var/lib/netboot\n" +
			"runner-images netboot serve --state-dir /var/lib/netboot"
	case strings.HasSuffix(asset, ".iso"):
		how = "from a USB stick, which is overwritten"
		commands = "dd if=" + word(asset) + " of=/dev/sdX bs=4M oflag=direct status=progress"
	case strings.HasSuffix(asset, ".img.zst"), strings.HasSuffix(asset, ".iso.zst"):
		how = "from an SD card or a USB stick, which is overwritten"
		commands = "zstd --decompress --stdout " + word(asset) + " | dd of=/dev/sdX bs=4M status=progress"
	case strings.HasSuffix(asset, ".img"):
		how = "from an SD card, which is overwritten"
		commands = "dd if=" + word(asset) + " of=/dev/sdX bs=4M oflag=direct status=progress"
	default:
		return ""
	}
	return fmt.Sprintf("\n`%s` %s:\n\n```\n%s\n```\n", asset, how, commands)
}

// assetTable is a Markdown table of assets. Those that have an address are
// links.
func assetTable(assets []artifact.Artifact) string {
	var b strings.Builder
	b.WriteString("| Asset | Size | SHA-256 |\n|---|---|---|\n")
	for _, asset := range assets {
		name := "`" + asset.Name + "`"
		if asset.URL != "" {
			name = "[" + name + "](" + asset.URL + ")"
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", name, size.Text(asset.Size), asset.SHA256)
	}
	return b.String()
}

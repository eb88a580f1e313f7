package nix

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/redact"
)

// Metadata identifies the source of a flake.
type Metadata struct {
	URL          string // as given, made absolute: "git+file:///srv/images"
	ResolvedURL  string // after the flake registry
	LockedURL    string // with all that pins it, such as the revision
	Revision     string // the commit's hash; empty for a folder without git and for a dirty tree
	Dirty        bool   // a git tree with changes that are not committed
	NARHash      string // "sha256-…", of the source tree
	LastModified time.Time
	Inputs       []Input // of its lock file, by name
}

// An Input is a flake that another one uses, as its lock file pins it.
type Input struct {
	Name     string // "nixpkgs"
	URL      string // "github:NixOS/nixpkgs/b18a4b9…"
	Revision string // the commit's hash; empty if it has none
	NARHash  string // "sha256-…"
}

// FlakeMetadata identifies the source of a flake, such as "." or
// "git+https://forge.example/owner/name". A relative one starts from the folder
// dir, or this process's working directory if that is empty.
func (n Nix) FlakeMetadata(ctx context.Context, dir, flake string) (Metadata, error) {
	output, err := n.output(ctx, dir, "flake", "metadata", "--json", "--", flake)
	if err != nil {
		return Metadata{}, err
	}
	var m struct {
		OriginalURL  string `json:"originalUrl"`
		ResolvedURL  string `json:"resolvedUrl"`
		URL          string `json:"url"`
		Revision     string `json:"revision"`
		LastModified int64  `json:"lastModified"`
		Locked       lock   `json:"locked"`
		Locks        struct {
			Root  string `json:"root"`
			Nodes map[string]struct {
				Locked *lock `json:"locked"`
			} `json:"nodes"`
		} `json:"locks"`
	}
	if err := json.Unmarshal(output, &m); err != nil {
		return Metadata{}, fmt.Errorf("unexpected output of nix flake metadata --json: %w", err)
	}
	metadata := Metadata{
		URL:         m.OriginalURL,
		ResolvedURL: m.ResolvedURL,
		LockedURL:   m.URL,
		Revision:    m.Revision,
		NARHash:     m.Locked.NARHash,
		// Before 2.19 a dirty tree is only known by its lack of a revision.
		Dirty: m.Locked.DirtyRevision != "" || m.Locked.Type == "git" && m.Revision == "",
	}
	if m.LastModified != 0 {
		metadata.LastModified = time.Unix(m.LastModified, 0).UTC()
	}
	for _, name := range slices.Sorted(maps.Keys(m.Locks.Nodes)) {
		if locked := m.Locks.Nodes[name].Locked; locked != nil {
			metadata.Inputs = append(metadata.Inputs, Input{
				Name: name, URL: locked.address(), Revision: locked.Revision, NARHash: locked.NARHash,
			})
		}
	}
	return metadata, nil
}

// A lock is a pinned flake, as in a lock file.
type lock struct {
	Type          string `json:"type"`
	Host          string `json:"host"`
	Owner         string `json:"owner"`
	Repository    string `json:"repo"`
	URL           string `json:"url"`
	Path          string `json:"path"`
	Folder        string `json:"dir"`
	Revision      string `json:"rev"`
	DirtyRevision string `json:"dirtyRev"`
	NARHash       string `json:"narHash"`
}

// address writes the lock as a flake's URL, which pins its revision.
func (l lock) address() string {
	parameters := url.Values{}
	if l.Folder != "" {
		parameters.Set("dir", l.Folder)
	}
	var address string
	switch l.Type {
	case "github", "gitlab", "sourcehut":
		address = strings.Join([]string{l.Type + ":" + l.Owner, l.Repository, l.Revision}, "/")
		if l.Host != "" {
			parameters.Set("host", l.Host)
		}
	case "git", "hg":
		address = l.Type + "+" + l.URL
		if l.Revision != "" {
			parameters.Set("rev", l.Revision)
		}
	case "path":
		address = "path:" + l.Path
	default: // tarball, file
		address = l.URL
	}
	if len(parameters) == 0 {
		return address
	}
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + parameters.Encode()
}

// A PathInfo is what a store knows of a store path.
type PathInfo struct {
	Path       string
	NARHash    string   // "sha256-…"
	NARSize    int64    // bytes
	References []string // the store paths that it names, which may be itself
	Deriver    string   // the derivation that it came from; empty if that is not known
	BuiltHere  bool     // by this store's own machine, rather than downloaded
}

// Closures is what is known of store paths and of all that they refer to, by path.
type Closures map[string]PathInfo

// Of returns a store path and all that it refers to, directly or not: the store paths
// without which it is not whole.
func (c Closures) Of(path string) []string {
	found, seen := []string{path}, map[string]bool{path: true}
	for i := 0; i < len(found); i++ {
		for _, reference := range c[found[i]].References {
			if !seen[reference] {
				found, seen[reference] = append(found, reference), true
			}
		}
	}
	return found
}

// Closures returns what is known of store paths and of all that they refer to. One that
// is not in the store is an error.
func (n Nix) Closures(ctx context.Context, paths ...string) (Closures, error) {
	v, err := n.version(ctx)
	if err != nil {
		return nil, err
	}
	return n.pathInfo(ctx, v, true, paths...)
}

func (n Nix) pathInfo(ctx context.Context, v version, recursive bool, paths ...string) (Closures, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	args := []string{"path-info", "--json"}
	if recursive {
		args = append(args, "--recursive")
	}
	if !v.before(version{major: 2, minor: 34}) { // since then, it warns if no format is given
		args = append(args, "--json-format", "1")
	}
	output, err := n.output(ctx, "", append(append(args, "--"), paths...)...)
	if err != nil {
		return nil, err
	}
	known, err := readPathInfo(output)
	if err != nil {
		return nil, fmt.Errorf("unexpected output of nix path-info --json: %w", err)
	}
	infos := Closures{}
	for path, info := range known {
		if info != nil && info.NARHash != "" {
			infos[path] = PathInfo{
				Path: path, NARHash: info.NARHash, NARSize: info.NARSize,
				References: info.References, Deriver: info.Deriver, BuiltHere: info.Ultimate,
			}
		}
	}
	for _, path := range paths {
		if _, found := infos[path]; !found {
			return nil, fmt.Errorf("%s is not in the store", path)
		}
	}
	return infos, nil
}

// StoreDir returns the folder of the store: as Nix says, or where it does not answer, as
// the variable NIX_STORE_DIR does, else "/nix/store".
func (n Nix) StoreDir(ctx context.Context) (string, error) {
	output, err := n.output(ctx, "", "eval", "--raw", "--expr", "builtins.storeDir")
	if err == nil || ctx.Err() != nil {
		return strings.TrimSpace(string(output)), err
	}
	return cmp.Or(os.Getenv("NIX_STORE_DIR"), "/nix/store"), nil
}

type pathInfo struct {
	Path       string   `json:"path"` // before 2.19
	NARHash    string   `json:"narHash"`
	NARSize    int64    `json:"narSize"`
	References []string `json:"references"`
	Deriver    string   `json:"deriver"`
	Ultimate   bool     `json:"ultimate"`
}

// readPathInfo reads an object by path or, from before 2.19, a list.
func readPathInfo(output []byte) (map[string]*pathInfo, error) {
	known := map[string]*pathInfo{}
	err := json.Unmarshal(output, &known)
	if err == nil {
		return known, nil
	}
	var list []*pathInfo
	if json.Unmarshal(output, &list) != nil {
		return nil, err
	}
	for _, info := range list {
		known[info.Path] = info
	}
	return known, nil
}

// Copy copies store paths and all that they refer to into another store, such as
// "s3://bucket", "ssh-ng://host" or "file:///folder". What is there already is
// not sent again.
func (n Nix) Copy(ctx context.Context, to string, paths []string, events func(Event)) error {
	if len(paths) == 0 {
		return nil // nix would copy the flake in the working directory
	}
	s := newStream(events)
	command := n.command("", append([]string{"copy", "--to", to, "--log-format", "internal-json", "--"}, paths...)...)
	command.Stderr = s
	err := n.run(ctx, command)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("copy to the store %s: %s", redact.Address(to), redact.Text(s.lastError(err)))
}

// Log returns the log of a derivation's last build, or of the build of a store
// path.
func (n Nix) Log(ctx context.Context, path string) (string, error) {
	if path == "" {
		return "", errors.New("the log of no derivation")
	}
	v, err := n.version(ctx)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, ".drv") {
		path = target{derivation: path}.installable(v)
	}
	output, err := n.output(ctx, "", "log", "--", path)
	return string(output), err
}

package forge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"every.channel/runner-images/internal/checksum"
)

// check finds mistakes in a publication before anything is sent.
func (p Publication) check() error {
	var errs []error
	if p.Tag == "" || strings.Contains("/"+p.Tag, "/.") {
		errs = append(errs, fmt.Errorf("release_tag %q: git does not allow this as a tag; use for example boot-v2026.02.28", p.Tag))
	}
	if len(p.Files) == 0 {
		errs = append(errs, fmt.Errorf("publish %s: no files given", p.Tag))
	}
	names := map[string]bool{}
	for _, file := range p.Files {
		if err := checkName(file.Name); err != nil {
			errs = append(errs, err)
		}
		if names[file.Name] {
			errs = append(errs, fmt.Errorf("asset %q: two files have this name", file.Name))
		}
		names[file.Name] = true
		if sum, err := hex.DecodeString(file.SHA256); file.SHA256 != "" &&
			(err != nil || len(sum) != sha256.Size || strings.ToLower(file.SHA256) != file.SHA256) {
			errs = append(errs, fmt.Errorf("asset %q: its SHA-256 %q is not 64 lower-case hexadecimal digits", file.Name, file.SHA256))
		}
		if file.Size < 0 {
			errs = append(errs, fmt.Errorf("asset %q: its size %d is negative", file.Name, file.Size))
		}
	}
	return errors.Join(errs...)
}

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`):
		return fmt.Errorf("asset %q: use a plain file name, without a folder", name)
	case strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name):
		return fmt.Errorf("asset %q: use a name of UTF-8 text without control characters", name)
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("asset %q: names that begin with a dot are not for readers of a release; rename the file", name)
	case name == checksum.FileName:
		return fmt.Errorf("asset %q: this file is made from the others; leave it out", name)
	case isOurs(name):
		return fmt.Errorf("asset %q: names that begin with %s or %s belong to uploads under way; rename the file", name, temporaryPrefix, ticketPrefix)
	case len(name) > 200: // forges keep 255, and an upload's temporary name is longer
		return fmt.Errorf("asset %q: use a name of at most 200 bytes", name)
	}
	return nil
}

// hash finds the checksum of a file that came without.
func hash(ctx context.Context, file *File) error {
	if file.SHA256 != "" {
		return nil
	}
	sum, size, err := checksum.File(ctx, file.Path)
	if err == nil && size != file.Size {
		err = fmt.Errorf("%s has %d bytes now and had %d before: let nothing write to it meanwhile", file.Path, size, file.Size)
	}
	file.SHA256 = sum
	return err
}

// A smallFile is SHA256SUMS.txt, or one that signs it.
type smallFile struct {
	name    string
	content []byte
}

// lists returns the list of these checksums, and the files that go with it.
func (p Publication) lists(sums checksum.Sums) ([]smallFile, error) {
	lists := []smallFile{{checksum.FileName, sums.Bytes()}}
	if p.Sign == nil {
		return lists, nil
	}
	signed, err := p.Sign(sums.Bytes())
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", checksum.FileName, err)
	}
	for _, name := range slices.Sorted(maps.Keys(signed)) {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("sign %s: %w", checksum.FileName, err)
		}
		for _, file := range p.Files {
			if file.Name == name {
				return nil, fmt.Errorf("sign %s: a published file is named %s, too", checksum.FileName, name)
			}
		}
		lists = append(lists, smallFile{name, signed[name]})
	}
	return lists, nil
}

func (p Publication) status(format string, args ...any) {
	if p.Status != nil {
		p.Status(fmt.Sprintf(format, args...))
	}
}

func (p Publication) progress(file File, done int64) {
	if p.Progress != nil {
		p.Progress(file.Name, done, file.Size)
	}
}

// noteSignature says so if an asset is about a list of checksums that has been
// replaced, and this run does not replace it.
func (c Config) noteSignature(asset string, lists []smallFile) {
	isNew := slices.ContainsFunc(lists, func(l smallFile) bool { return l.name == asset })
	if !isNew && strings.HasPrefix(asset, checksum.FileName+".") {
		c.Log(fmt.Sprintf("%s is about the old %s; sign it anew, or delete it", asset, checksum.FileName))
	}
}

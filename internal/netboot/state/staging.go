package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// A Staging is how the last attempt to stage a release ended.
type Staging struct {
	Time      time.Time `json:"time"`               // when it ended
	Error     string    `json:"error,omitempty"`    // empty: it succeeded, if there was nothing new too
	Succeeded time.Time `json:"succeeded,omitzero"` // when one ended well for the last time; zero: never
}

const stagingFile = "last-staging.json"

// LastStaging returns how the last attempt to stage a release ended, or an error that
// wraps fs.ErrNotExist if there was none.
func (d *Dir) LastStaging() (Staging, error) {
	content, err := d.root.ReadFile(stagingFile)
	if err != nil {
		return Staging{}, err
	}
	var staging Staging
	if err := json.Unmarshal(content, &staging); err != nil {
		return Staging{}, fmt.Errorf("%s: %w", stagingFile, err)
	}
	return staging, nil
}

// SetLastStaging records that an attempt to stage a release ended now, with an error or
// nil.
func (d *Dir) SetLastStaging(ctx context.Context, failed error) error {
	staging := Staging{Time: time.Now().UTC().Truncate(time.Second)}
	if failed == nil {
		staging.Succeeded = staging.Time
	} else {
		before, err := d.LastStaging()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		staging.Error, staging.Succeeded = failed.Error(), before.Succeeded
	}
	return d.writeJSON(ctx, stagingFile, staging)
}

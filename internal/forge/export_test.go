package forge

import (
	"context"
	"time"
)

// WithClock returns a config that asks now for the time, and waits with wait.
func (c Config) WithClock(now func() time.Time, wait func(ctx context.Context, d time.Duration) error) Config {
	c.now, c.wait = now, wait
	return c
}

// WithBeat returns a config whose tickets give a sign of life every beat.
func (c Config) WithBeat(beat time.Duration) Config {
	c.beat = beat
	return c
}

// TemporaryName is the name of an upload of these bytes.
var TemporaryName = temporaryName

// MergeNotes and HasNotes are how a block gets into a release's notes.
var (
	MergeNotes = mergeNotes
	HasNotes   = hasNotes
)

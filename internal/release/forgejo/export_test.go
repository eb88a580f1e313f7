package forgejo

import (
	"context"
	"time"
)

// WithClock returns a config that asks now for the time, and waits with wait.
func (c Config) WithClock(now func() time.Time, wait func(ctx context.Context, d time.Duration) error) Config {
	c.now, c.wait = now, wait
	return c
}

// WithRenewal returns a config whose leases are renewed that often.
func (c Config) WithRenewal(renewal time.Duration) Config {
	c.renewal = renewal
	return c
}

//go:build !linux

package state

import (
	"errors"
	"os"
)

// exchange would swap two names in one step, which only Linux can.
func exchange(a, _ string) error {
	return &os.PathError{Op: "exchange", Path: a, Err: errors.ErrUnsupported}
}

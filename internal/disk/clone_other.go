//go:build !linux

package disk

import (
	"errors"
	"os"
)

// clone leaves it to a copy.
func clone(*os.File, *os.File) error { return errors.ErrUnsupported }

//go:build !linux

package disk

import (
	"errors"
	"os"
)

// Exchange would swap what two names lead to in one step, which only Linux can.
// It always fails with errors.ErrUnsupported.
func Exchange(a, b string) error {
	return &os.LinkError{Op: "exchange", Old: a, New: b, Err: errors.ErrUnsupported}
}

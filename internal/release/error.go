package release

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// ErrNotFound is the error of a release, or of an asset in it, that is not there,
// or that the token in use cannot see. Test for it with errors.Is.
var ErrNotFound = errors.New("not found")

// An Error is an operation that a backend refused, or a request that got no
// answer.
type Error struct {
	Operation string // what was tried, "upload" for example
	Asset     string // the asset's name, where it is about one
	URL       string // of the request, without anything secret
	Status    int    // of the answer (RFC 9110), 0 if there was none
	Words     string // the server's own words, in one line
	Advice    string // what to do
	Err       error  // why there was no answer
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Operation)
	if e.Asset != "" {
		fmt.Fprintf(&b, " %s", e.Asset)
	}
	fmt.Fprintf(&b, " (%s): ", e.URL)
	switch {
	case e.Status != 0:
		answer := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
		fmt.Fprintf(&b, "the server answers %s", answer)
		if e.Words != "" && !strings.HasSuffix(answer, e.Words) {
			fmt.Fprintf(&b, ", %q", e.Words)
		}
		if e.Err != nil {
			fmt.Fprintf(&b, ": %v", e.Err)
		}
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	}
	if e.Advice != "" {
		fmt.Fprintf(&b, "; %s", e.Advice)
	}
	return b.String()
}

// Unwrap returns the error behind it: ErrNotFound for a release or asset that
// is not there, the network's or the context's error for a request without an
// answer.
func (e *Error) Unwrap() error {
	if e.Status == http.StatusNotFound && e.Err == nil {
		return ErrNotFound
	}
	return e.Err
}

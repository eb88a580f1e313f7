package size_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/size"
)

func TestText(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 600 << 20: "600.0 MiB", 3 << 29: "1.5 GiB", 5 << 40: "5.0 TiB",
		1 << 60: "1.0 EiB", math.MaxInt64: "8.0 EiB",
	} {
		assert.Equal(t, want, size.Text(bytes))
	}
}

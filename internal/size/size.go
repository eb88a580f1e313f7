// Package size writes numbers of bytes for people, everywhere in the same units.
package size

import "fmt"

// Text returns a number of bytes in binary units (IEC 80000-13), for example
// "1.4 GiB".
func Text(bytes int64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, units := float64(bytes)/unit, "KMGTPE"
	for value >= unit {
		value, units = value/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}

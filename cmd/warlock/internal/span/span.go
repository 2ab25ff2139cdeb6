// Package span writes durations for people.
package span

import (
	"fmt"
	"time"
)

// Text returns d as people read it, such as "8.2 s" or "3 min 20 s". A negative d is
// "0.0 s".
func Text(d time.Duration) string {
	d = max(d, 0)
	if tenths := d.Round(time.Second / 10); tenths < time.Minute {
		return fmt.Sprintf("%.1f s", tenths.Seconds())
	}
	seconds := int64(d.Round(time.Second) / time.Second)
	minutes, hours := seconds/60, seconds/3600
	switch {
	case hours == 0:
		return fmt.Sprintf("%d min %d s", minutes, seconds%60)
	case hours < 24:
		return fmt.Sprintf("%d h %d min", hours, minutes%60)
	}
	return fmt.Sprintf("%d d %d h", hours/24, hours%24)
}

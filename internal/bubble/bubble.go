// Package bubble runs tests on a fake clock, in FIPS mode as well.
package bubble

import (
	"crypto/fips140"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

// Test is synctest.Test. In FIPS mode crypto/rand takes its entropy from the jitter of
// the clock and panics where that stands still, so there randomness comes from a seed.
// A test that calls it must not be parallel.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, f)
}

package cache_test

import (
	"crypto/fips140"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

// bubble runs f in a synctest bubble. In FIPS mode the entropy source of crypto/rand
// measures the jitter of the clock, and panics where the clock stands still; there,
// randomness comes from a seed.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, f)
}

package envelope_test

import (
	"crypto/fips140"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

// bubble runs f in a synctest bubble. In FIPS mode crypto/rand takes its entropy
// from the jitter of the clock, which stands still in there; a seed does instead.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if fips140.Enabled() {
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, f)
}

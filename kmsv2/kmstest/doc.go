// Package kmstest judges a Kubernetes KMS v2 plugin, anybody's: it is the plugin's
// side of the contract with the API server, as tests that see only what the API
// server sees.
//
// In the plugin's own tests, against its socket:
//
//	func TestContract(t *testing.T) {
//		endpoint := startMyPlugin(t) // "unix:///..."
//		kmstest.Run(t, endpoint, kmstest.Options{})
//	}
//
// or, without a socket, against its implementation of k8s.io/kms/pkg/service.Service,
// which shows in addition whether it respects the memory of its caller:
//
//	kmstest.RunService(t, myService, kmstest.Options{})
//
// Each rule is a subtest with a stable name and the number of the row of CONTRACT.md
// that it checks. Rules that need the plugin to do something (rotate its key, restart,
// lose its key) run when [Options] says how, and are skipped by name otherwise. [Check]
// returns the same verdicts as values.
//
// The kit contains no sleep that waits for luck: a pass means that the plugin did the
// right thing, a failure names the rule, what was done and what came back. Latency
// is measured and reported; only a plugin that API servers could not work with fails.
package kmstest

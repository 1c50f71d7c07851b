// Package e2e holds Keyfold's end-to-end cases: a real API server keeps real
// objects in a real etcd, and every key-encryption key lives in a simulated
// HSM.
//
//	test process ── typed client ──> kube-apiserver ── gRPC, unix socket ──> kmsplugin ──┐
//	   │   │                          │      └─ or in process, no plugin: kmsv2.Factory ─┤
//	   │   └── raw reads ──> etcd <───┘                                                  v
//	   └── rotates, disables, slows down, counts ────────────────────────────────> simulated HSM
//
// The cases are the tests of this folder; package harness starts, kills and
// looks into the processes; cmd holds the programs that the cases need built;
// package config is the configuration that the plugin and the API server with
// Keyfold inside have in common. README.md tells how to run them.
package e2e

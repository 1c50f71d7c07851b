// Command kmsplugin is a Kubernetes KMS plugin that can be deployed as it is: KMS
// v2 and v1 on one unix socket, for any back end of Keyfold. README.md tells how
// to run it; kmsplugin --help teaches the rest.
//
//	flags.go, config.go ──► settings ──► plugin.go
//	                                       │
//	   provider.go, provider_hsmsim.go ──► vault ──► ring.go ──► rotation.Ring
//	                                                                  │
//	   API server ──► unix socket ──► kmsv2.Server ──► kmsv2.Service ─┘
//	   kubelet ─────► health.go            ▲
//	   Prometheus ──► metrics.go           │
//	   file, SIGHUP ► reload.go ──► apply.go (the ring, verbosity)
//
// It guarantees:
//
//   - The socket is served at once, whether or not the vault answers. Until it
//     does, Status fails as a call.
//   - A new configuration is used only after all of it was found right and its new
//     key was seen to encrypt and decrypt; otherwise the old one stays.
//   - SIGTERM finishes the requests under way, within a bound; kill -9 loses nothing
//     and the next start takes over.
//   - No key bytes, plaintext or passphrase in a flag, a log or a metric.
//
// A new back end is one file beside provider_hsmsim.go and one line in newProviders.
package main

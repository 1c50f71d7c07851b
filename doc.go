// Package keyfold is the root of a library for envelope encryption whose
// key-encryption keys (KEKs) live somewhere safer than the process that uses
// them: in a simulated HSM on this machine now, in Azure Key Vault, Managed HSM
// or a PKCS#11 token as those back ends land.
//
// The root holds no code. Start with the package that fits the work:
//
//   - [github.com/keyfold/keyfold/envelope] seals and opens data under a KEK. It
//     is the core, and depends on the standard library alone.
//   - [github.com/keyfold/keyfold/keyvault/hsmsim] is a KEK that needs no
//     hardware and no account.
//   - [github.com/keyfold/keyfold/cache] keeps unwrapped data keys, so that a
//     remote call is paid once for each data key and not for each message.
//   - [github.com/keyfold/keyfold/rotation] holds the current and the previous
//     KEK, and says which one writes.
//   - [github.com/keyfold/keyfold/kmsv2] makes a Kubernetes KMS plugin, or an API
//     server that needs none, of the packages above.
//
// The program examples/quickstart shows all of it in a few seconds.
package keyfold

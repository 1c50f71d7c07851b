// Package v1beta1 adds KMS v1 to the server of package kmsv2, on the same socket
// and with the same keys:
//
//	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{})
//	v1beta1.Register(srv, svc)
//
// KMS v1 sends a key for every object that the API server writes, and asks for every
// object that it reads for the first time. A plugin that hands each to its vault
// needs one remote call an object, and a start with some thousands of objects runs
// into the vault's limits. Here they are sealed under a data key of our own, so that
// a cold list of any number of objects costs one call for each data key.
//
//	cipher = header | nonce 24 | encrypted | tag 16,  associated data "keyfold/kms/v1"
//
// v1 tells no key id, so an API server never finds v1 data stale and a write that
// changes nothing does not rewrite it. After a rotation of the key, v1 data is
// migrated by a second provider entry of another name on the same socket, put first;
// better still, by going over to v2.
package v1beta1

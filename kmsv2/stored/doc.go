// Package stored reads what Kubernetes API servers keep in etcd: which provider
// encrypted an object, under which KMS key, and the wrapped key beside it. It needs
// no key, no API server code and no cluster, which makes it the ground that audits,
// migrations and diagnoses stand on.
//
// An encrypted value begins with a prefix; any other value is plaintext ("identity"):
//
//	k8s:enc:kms:v1:NAME:     u16 length || encrypted DEK || data      KMS v1
//	k8s:enc:kms:v2:NAME:     EncryptedObject (protobuf)               KMS v2
//	k8s:enc:aescbc:v1:KEY:   data                                     keys in the API server's
//	k8s:enc:aesgcm:v1:KEY:   data                                     own configuration
//	k8s:enc:secretbox:v1:KEY: data
//
// The EncryptedObject of KMS v2, field by field:
//
//	1  encryptedData           bytes, the object under the DEK
//	2  keyID                   string, 1 to 1024 bytes: the key_id of the plugin
//	3  encryptedDEKSource      bytes, 1 to 1024 bytes: the ciphertext of the plugin
//	4  annotations             map<string, bytes>, at most 32 KiB: those of the plugin
//	5  encryptedDEKSourceType  0: the DEK itself; 1: a seed that DEKs are derived from
//
// # Strictness
//
// [Parse] accepts exactly the bytes that API servers write, and whatever it accepts
// [Record.Append] turns into the same bytes again. A protobuf parser is more
// generous: it takes fields in any order, twice, or unknown. No API server writes
// such a record, so one that turns up was made by somebody else, and an audit that
// read it generously could be shown a key other than the one in use. Only the order
// of annotations is free, since a protobuf map has none; it is kept.
//
// Parse copies only names and ids: the byte slices of a [Record] are views of its
// input. It never panics, and what it allocates is bounded by the limits above.
package stored

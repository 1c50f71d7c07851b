// Package envelope is envelope encryption: messages under a data-encryption key
// (DEK), the DEK under a key-encryption key (KEK) that lives somewhere safer.
package envelope

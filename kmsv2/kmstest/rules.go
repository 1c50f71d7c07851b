package kmstest

import "context"

// Rule is one thing that the contract asks of a plugin.
type Rule struct {
	// Name is stable: it names the subtest.
	Name string
	// Row is the row of CONTRACT.md.
	Row int
	// Text says what the plugin must do.
	Text string
}

// Rules returns every rule, in the order in which they are checked.
func Rules() []Rule {
	all := make([]Rule, len(rules))
	for i, r := range rules {
		all[i] = r.Rule
	}
	return all
}

// rule is a Rule and how to judge a plugin by it: nil, a violation, or a skipError.
type rule struct {
	Rule
	check func(ctx context.Context, s *subject) error
}

// The order matters little, except that rules which need a hook come last, and among
// them those that leave most behind.
var rules = []rule{
	{Rule{"reachable", 1, "Status answers on a unix socket, without TLS, within the call time-out."}, reachable},

	{Rule{"status-version", 3, `Status says version "v2" or "v2beta1" and always the same.`}, statusVersion},
	{Rule{"status-healthz", 4, `Status says healthz "ok", exactly, while the plugin works.`}, statusHealthz},
	{Rule{"status-polled", 13, "Status bears being polled by many API servers and health checks."}, statusPolled},
	{Rule{"key-id-size", 5, "A key_id is 1 to 1024 bytes of text."}, keyIDSize},
	{Rule{"key-id-stable", 9, "The key_id of Status stays the same while the key does."}, keyIDStable},

	{Rule{"encrypt-key-id", 8, "Encrypt answers with the key_id of the last Status."}, encryptKeyID},
	{Rule{"ciphertext-size", 6, "A ciphertext is 1 to 1024 bytes."}, ciphertextSize},
	{Rule{"annotations-size", 7, "Names and values of all annotations are at most 32 KiB."}, annotationsSize},
	{Rule{"annotation-names", 7, "An annotation's name is a domain name: lower case, two labels or more, no slash."}, annotationNames},
	{Rule{"plaintext-hidden", 7, "Nothing in the answer of Encrypt, all of it public, shows the plaintext."}, plaintextHidden},
	{Rule{"answers-distinct", 10, "Distinct plaintexts have distinct ciphertext, key_id and annotations."}, answersDistinct},

	{Rule{"round-trip", 26, "Decrypt returns what was encrypted, as often as it is asked."}, roundTrip},
	{Rule{"uid-irrelevant", 24, "A uid is for logs: no answer depends on it."}, uidIrrelevant},
	{Rule{"decrypt-unknown-key-id", 11, "Decrypt refuses a key_id that the plugin never gave."}, decryptUnknownKeyID},
	{Rule{"decrypt-changed-ciphertext", 27, "Decrypt refuses a ciphertext that the plugin did not make."}, decryptChangedCiphertext},
	{Rule{"decrypt-changed-annotations", 27, "Changed annotations never make Decrypt return another plaintext."}, decryptChangedAnnotations},

	{Rule{"memory-respected", 28, "The plugin neither keeps nor changes its caller's bytes, nor shares its own."}, memoryRespected},
	{Rule{"empty-requests", 29, "Empty requests are answered or refused, and do no harm."}, emptyRequests},
	{Rule{"oversize-requests", 29, "Requests beyond any legitimate size are refused, and do no harm."}, oversizeRequests},
	{Rule{"concurrent-calls", 29, "Calls at the same time do not disturb each other."}, concurrentCalls},
	{Rule{"ended-calls", 2, "Calls given up by their caller return and leave nothing behind."}, endedCalls},
	{Rule{"wire-garbage", 29, "Garbage on the socket does no harm."}, wireGarbage},
	{Rule{"latency", 12, "Encrypt takes about 100 ms at most and Decrypt about 10 ms; a second is a failure."}, latency},

	{Rule{"rotation-key-id", 16, "A rotation shows as a new key_id in Status, without a restart."}, rotationKeyID},
	{Rule{"rotation-once", 9, "A rotation changes the key_id once, without going back and forth."}, rotationOnce},
	{Rule{"rotation-key-id-new", 9, "A rotation never brings back a key_id that was used before."}, rotationKeyIDNew},
	{Rule{"rotation-encrypt-key-id", 8, "Encrypt agrees with Status on the key_id during a rotation too."}, rotationEncryptKeyID},
	{Rule{"rotation-old-data", 11, "Data from before a rotation decrypts with its own key_id."}, rotationOldData},
	{Rule{"rotation-swapped-key-id", 11, "Decrypt refuses data under the key_id of another key of the plugin."}, rotationSwappedKeyID},

	{Rule{"restart-key-id", 9, "A restart does not change the key_id."}, restartKeyID},
	{Rule{"restart-old-data", 30, "Data from before a restart decrypts."}, restartOldData},

	{Rule{"revoked-status-fails", 15, "Once its key is revoked, Status fails as a call: another healthz does not stop writes."}, revokedStatusFails},
	{Rule{"restored-works", 13, "Once its key is back, the plugin works again by itself."}, restoredWorks},
}

// Package rotation decides which key-encryption key (KEK) writes, which ones
// read, and whether the one that writes is still there.
//
// A [Ring] is a KEK over KEKs. Everything that takes an [envelope.KEK] takes a ring:
//
//	              wraps                          unwraps
//	current       from ActivateAt on             always
//	previous      until ActivateAt               always
//	read, read…   never                          always
//
//	            Wrap ──► the writer            Unwrap ──► by key id
//	                        │                               │
//	  config ──► ┌──────────┴──────────┬────────────────────┴──┐
//	  (Reload)   │ current  F1/v7.1    │ previous F1/v6        │ read F2/v3, F3
//	             └──────────▲──────────┴───────────────────────┘
//	                        │
//	            the probe: wrap and unwrap a canary, every 15 s
//
// # Rotating without downtime
//
// Any version of a configured key name opens, known or not, because each wrap names
// its exact version. So a new version of the same key needs one step: make it
// current, and the one before previous. A new key name, or a new vault, needs two:
// roll it out to every node as a read key, then make it current. With ActivateAt all
// nodes change over at the same instant, by the clock, without another reload.
//
// Going back to a version that was current before takes a higher Epoch: the ids
// then differ although the key is the same, and whoever compares ids (a Kubernetes
// API server) sees a new one.
//
// # Key ids
//
// A key id is FAMILY/VERSION[.EPOCH], see [envelope.KeyID]. Ids in stored data are
// only matched against configured families. The epoch is added after a back end
// has wrapped and taken off before it unwraps; any epoch of a configured family opens.
// A back end with ids of another form works too, without epochs: it is asked for
// those ids that it may have written, and answers [envelope.ErrUnknownKey] for the
// rest.
//
// # Health
//
// [Ring.Run] probes the writer, and nothing but that probe decides about health.
// A forged version or a disabled previous key in stored data never does.
//
//	Unknown ──► Healthy ◄──► Expired         wraps nothing new, still opens
//	               ▲  ▲
//	               │  └─────► Unavailable    unreachable, throttled, or refused once
//	               │               │
//	               └────────── Revoked       confirmed; refused here, DEKs dropped
//
// Disabled and deleted are confirmed by a second answer some seconds later. A
// forbidden key that has worked counts as revoked after half a minute; one that never
// worked is a permission still missing. Together that is under a minute, see
// [Ring.RevocationBound]. A revoked version is not admitted any more
// ([Ring.Admits], with a new [Ring.Generation]), and Unwrap refuses it without a
// network call. When the key is given back, the next probe heals it.
//
// How long to ride out an outage is not decided here: Health.LastOK says since when.
package rotation

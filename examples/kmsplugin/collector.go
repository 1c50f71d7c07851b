package main

import (
	"crypto/sha256"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// collector reads the service's snapshot when Prometheus asks. It sends every
// metric anew, so a key that is no longer configured leaves no series behind.
type collector struct{ service *kmsv2.Service }

var _ prometheus.Collector = collector{}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("keyfold_"+name, help, labels, nil)
}

var (
	healthDesc = describe("kek_health",
		"1 for the state that the key which encrypts is in, 0 for the others.", "state")
	lastOKDesc = describe("kek_last_success_timestamp_seconds",
		"When a probe last saw the key which encrypts at work.")
	keyInfoDesc = describe("key_info",
		"Keys of the ring. key_id_hash is as in the API server's own KMS metrics.", "key_id_hash", "role", "writer")
	keyExpiryDesc = describe("key_expiry_timestamp_seconds",
		"When the key expires; absent if it does not.", "key_id_hash", "role")
	dekAgeDesc = describe("dek_age_seconds",
		"Age of the data key in use; past a day means that the vault wraps no new one.")
	dekSavedDesc = describe("dek_saved",
		"1 if a restart would find the data key in the state folder.")
	cacheHitsDesc     = describe("dek_cache_hits_total", "Data keys found in memory.")
	cacheMissesDesc   = describe("dek_cache_misses_total", "Data keys not found in memory.")
	cacheLoadsDesc    = describe("dek_cache_loads_total", "Data keys that the vault was asked to unwrap.")
	cacheFailuresDesc = describe("dek_cache_load_failures_total", "Data keys that could not be unwrapped.")
	cacheEntriesDesc  = describe("dek_cache_entries", "Data keys in memory.")
)

var states = []rotation.State{rotation.Unknown, rotation.Healthy, rotation.Expired, rotation.Unavailable, rotation.Revoked}

// collect adds what the service knows of itself to the registry.
func (m *metrics) collect(service *kmsv2.Service) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "keyfold_build_info", Help: "1, with the version that runs.",
		ConstLabels: prometheus.Labels{"version": version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, collector{service})
}

// Describe sends the descriptions of every metric that Collect may send.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		healthDesc, lastOKDesc, keyInfoDesc, keyExpiryDesc, dekAgeDesc, dekSavedDesc,
		cacheHitsDesc, cacheMissesDesc, cacheLoadsDesc, cacheFailuresDesc, cacheEntriesDesc,
	} {
		ch <- d
	}
}

// Collect sends the metrics as they are now.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	snap := c.service.Snapshot()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	for _, s := range states {
		gauge(healthDesc, oneIf(s.String() == snap.Health.State), s.String())
	}
	if !snap.Health.LastOK.IsZero() {
		gauge(lastOKDesc, float64(snap.Health.LastOK.UnixMilli())/1000)
	}
	collectKeys(gauge, snap.Keys)
	if snap.DEK != nil {
		gauge(dekAgeDesc, snap.DEK.AgeSeconds)
		gauge(dekSavedDesc, oneIf(snap.DEK.Saved))
	}
	counter(cacheHitsDesc, snap.Cache.Hits)
	counter(cacheMissesDesc, snap.Cache.Misses)
	counter(cacheLoadsDesc, snap.Cache.Loads)
	counter(cacheFailuresDesc, snap.Cache.Failures)
	gauge(cacheEntriesDesc, float64(snap.Cache.Entries))
}

// collectKeys sends each key once: two read keys of one name, both without a
// version, have the same labels, and a registry refuses a series given twice.
func collectKeys(gauge func(*prometheus.Desc, float64, ...string), keys []kmsv2.KeySnapshot) {
	type series struct{ hash, role string }
	sent := make(map[series]bool)
	for _, k := range keys {
		s := series{keyIDHash(k.ID), string(k.Role)}
		if sent[s] {
			continue
		}
		sent[s] = true
		gauge(keyInfoDesc, 1, s.hash, s.role, fmt.Sprint(k.Writer))
		if !k.Expires.IsZero() {
			gauge(keyExpiryDesc, float64(k.Expires.Unix()), s.hash, s.role)
		}
	}
}

// keyIDHash is how an API server labels its own KMS metrics, so that the two can
// be joined: apiserver_envelope_encryption_key_id_hash_total and others.
func keyIDHash(id string) string {
	if id == "" {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(id)))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

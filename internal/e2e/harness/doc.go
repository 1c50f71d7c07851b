// Package harness runs a control plane of real processes for a test: etcd, the
// API server and Keyfold as its KMS, over one simulated HSM.
//
//	Cluster
//	 ├─ Etcd     process, and Raw: its client, which sees what is really stored
//	 ├─ API      process, and Client: a typed Kubernetes client
//	 └─ Keyfold  a process of its own (socket, v1 or v2) or inside the API server
//	     └─ HSM  opened by the test as well, which rotates, disables and disturbs it
//
// It guarantees that every process is dead when its test ends, even when the
// test itself is killed; that nothing is waited for by sleeping, only by
// looking until a deadline; and that a failed test shows the end of every log.
package harness

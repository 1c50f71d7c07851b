package harness

import (
	"fmt"
	"strings"
)

// Provider is one entry of an API server's encryption configuration.
type Provider struct {
	// Name of the KMS provider; Identity has none.
	Name string
	// API is "v1" or "v2"; for identity "".
	API string
	// Endpoint is unix:///PATH. One that is served in process is never dialled
	// and still has to look like this.
	Endpoint string
}

// Identity stores plaintext.
var Identity = Provider{}

// Prefix is what every value that the provider wrote starts with.
func (p Provider) Prefix() string {
	if p == Identity {
		return "k8s\x00" // the magic of the protobuf that is stored without encryption
	}
	return "k8s:enc:kms:" + p.API + ":" + p.Name + ":"
}

func (p Provider) yaml() string {
	if p == Identity {
		return "      - identity: {}\n"
	}
	return fmt.Sprintf("      - kms: {name: %s, apiVersion: %s, endpoint: %q}\n", p.Name, p.API, p.Endpoint)
}

// encryptionConfig writes with the first provider and reads with all of them.
func encryptionConfig(providers []Provider) []byte {
	var b strings.Builder
	b.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"  - resources: [secrets, configmaps]\n    providers:\n")
	for _, p := range providers {
		b.WriteString(p.yaml())
	}
	return []byte(b.String())
}

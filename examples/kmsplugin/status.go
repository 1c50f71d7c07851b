package main

import "github.com/keyfold/keyfold/kmsv2"

// status is what /statusz shows: the service's snapshot and what the plugin adds.
type status struct {
	Version string       `json:"version"`
	Config  configStatus `json:"config"`
	kmsv2.Snapshot
}

type configStatus struct {
	File string `json:"file,omitempty"`
	// Refused is why the file as it is now is not in use.
	Refused string `json:"refused,omitempty"`
}

func (p *plugin) status() status {
	s := status{Version: version(), Snapshot: p.service.Snapshot()}
	s.Config.File = p.cmd.configPath
	if refused := p.refused.Load(); refused != nil {
		s.Config.Refused = *refused
	}
	return s
}

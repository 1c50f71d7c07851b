package hsmsim

import "context"

// LockFolder lets a test be a writer that is stopped.
var LockFolder = lockFolder

// Material returns all key material, for a test that looks for it elsewhere.
func (h *HSM) Material() (all [][]byte) {
	for _, k := range h.loaded.Load().state.Keys {
		for _, v := range k.Versions {
			all = append(all, v.Material)
		}
	}
	return all
}

// Outgrow lets the newest version of a key outgrow what a state file may hold.
func (h *HSM) Outgrow(ctx context.Context, name string) error {
	return h.mutate(ctx, "outgrow", "", func(s *state) error {
		s.Keys[name].latest().Material = make([]byte, maxStateSize)
		return nil
	})
}

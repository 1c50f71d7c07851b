package hsmsim

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

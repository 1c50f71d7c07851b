package hsmsim

import (
	"context"
	"errors"
	"slices"

	"github.com/keyfold/keyfold/envelope"
)

// Operation names one kind of operation, in permissions and in the operations
// log. The names are those of Key Vault's access policies.
type Operation string

// The operations of the HSM.
const (
	OpCreate    Operation = "create"
	OpGet       Operation = "get"
	OpList      Operation = "list"
	OpUpdate    Operation = "update"
	OpRotate    Operation = "rotate"
	OpDelete    Operation = "delete"
	OpRecover   Operation = "recover"
	OpPurge     Operation = "purge"
	OpEncrypt   Operation = "encrypt"
	OpDecrypt   Operation = "decrypt"
	OpWrapKey   Operation = "wrapKey"
	OpUnwrapKey Operation = "unwrapKey"
)

// Operations returns all of them.
func Operations() []Operation {
	return []Operation{OpCreate, OpGet, OpList, OpUpdate, OpRotate, OpDelete, OpRecover, OpPurge,
		OpEncrypt, OpDecrypt, OpWrapKey, OpUnwrapKey}
}

// request is one operation on its way: what, on which key and, once that has been
// found, which version. Both are empty where the operation concerns no one key.
type request struct {
	op            Operation
	name, version string
	label         string // names the key in errors
}

func (h *HSM) request(op Operation, name, version string) *request {
	return &request{op: op, name: name, version: version, label: h.label(name, version)}
}

// check refuses names that no key can have, before they reach a log.
func (r *request) check() error {
	switch {
	case !validName(r.name):
		return invalid(string(r.op), "", "use 1 to 127 of a-z, A-Z, 0-9 and -", "invalid key name %.80q", r.name)
	case r.version != "" && !validVersion(r.version):
		return invalid(string(r.op), "", "use the 32 hex digits that Versions lists", "invalid version %.80q", r.version)
	}
	return nil
}

// perform takes an operation through what a vault does around it: the network
// with its faults, the permission, the state, the log.
func (h *HSM) perform(ctx context.Context, r *request, f func(*state) error) error {
	if r.label != "" {
		if err := r.check(); err != nil {
			return err
		}
	}
	err := h.admit(ctx, r)
	if err == nil {
		var s *state
		if s, err = h.current(); err != nil {
			err = unusable(string(r.op), r.label, err)
		} else {
			err = f(s)
		}
	}
	h.record(ctx, r, err)
	return err
}

func (h *HSM) admit(ctx context.Context, r *request) error {
	op := string(r.op)
	if h.closed.Load() {
		return invalid(op, r.label, "open the HSM again", "the HSM is closed")
	}
	if ctx.Err() != nil {
		return interrupted(op, r.label, ctx)
	}
	faults, err := h.faults.reload()
	if err != nil {
		h.log.Warn("hsmsim: the last good faults stay in force", "file", faultsFile, "err", err)
	}
	if err := h.faults.disturb(ctx, faults, op, r.label); err != nil {
		return err
	}
	if h.permissions != nil && !slices.Contains(h.permissions, r.op) {
		return fail(envelope.ErrForbidden, op, r.label, errors.New("the permission is missing"),
			"add "+op+" to Options.Permissions")
	}
	return nil
}

// record writes the operation to the log. A log that cannot be written is
// reported and stops nothing: the log is there to observe the simulation.
func (h *HSM) record(ctx context.Context, r *request, result error) {
	err := h.oplog.append(LogEntry{
		Time: h.timestamp(), PID: h.pid, Operation: r.op, Key: r.name, Version: r.version,
		RequestID: envelope.RequestID(ctx), Result: resultOf(result),
	})
	if err != nil {
		h.log.Warn("hsmsim: the operations log cannot be written", "err", err)
	}
}

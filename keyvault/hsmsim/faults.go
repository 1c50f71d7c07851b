package hsmsim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const faultsFile = "faults.json"

// Faults are the ways in which a real vault disturbs its callers, for tests. Each
// operation meets them in this order: latency, outage, error rate, limit.
//
// In the folder's faults.json they are written as
//
//	{"latency":"10ms","limit":{"operations":2000,"per":"10s"},"errorRate":0.0,"outage":false}
//
// with every member optional. While that file exists it takes the place of
// Options.Faults in every process that has the folder open, from the next
// operation on. See [WriteFaults].
type Faults struct {
	// Latency is added to every operation. A caller's context ends it early.
	Latency time.Duration
	// Limit refuses operations beyond a number in a time.
	Limit Limit
	// ErrorRate is the share of operations, 0 to 1, that fail with
	// [envelope.ErrUnreachable]. They are spread evenly instead of drawn, so that
	// tests repeat: at 0.25 every fourth operation fails.
	ErrorRate float64
	// Outage lets every operation fail with [envelope.ErrUnreachable].
	Outage bool
}

// Limit allows Operations in a window of length Per, which begins with the first
// operation after the last window ended; the zero Limit allows all. Beyond it
// operations answer [envelope.ErrThrottled] and, as in Key Vault, do not count.
// Each [HSM] has a window of its own: processes that share a folder share no limit.
type Limit struct {
	Operations int
	Per        time.Duration
}

type faultsJSON struct {
	Latency   string     `json:"latency,omitempty"`
	Limit     *limitJSON `json:"limit,omitempty"`
	ErrorRate float64    `json:"errorRate,omitempty"`
	Outage    bool       `json:"outage,omitempty"`
}

type limitJSON struct {
	Operations int    `json:"operations"`
	Per        string `json:"per"`
}

// MarshalJSON writes the form of faults.json.
func (f Faults) MarshalJSON() ([]byte, error) {
	out := faultsJSON{ErrorRate: f.ErrorRate, Outage: f.Outage}
	if f.Latency != 0 {
		out.Latency = f.Latency.String()
	}
	if f.Limit != (Limit{}) {
		out.Limit = &limitJSON{f.Limit.Operations, f.Limit.Per.String()}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads the form of faults.json and refuses unknown members.
func (f *Faults) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var in faultsJSON
	if err := dec.Decode(&in); err != nil {
		return err
	}
	out := Faults{ErrorRate: in.ErrorRate, Outage: in.Outage}
	var err error
	if in.Latency != "" {
		if out.Latency, err = time.ParseDuration(in.Latency); err != nil {
			return fmt.Errorf("latency: %w", err)
		}
	}
	if in.Limit != nil {
		out.Limit.Operations = in.Limit.Operations
		if out.Limit.Per, err = time.ParseDuration(in.Limit.Per); err != nil {
			return fmt.Errorf("limit.per: %w", err)
		}
	}
	if err := out.validate(); err != nil {
		return err
	}
	*f = out
	return nil
}

func (f Faults) validate() error {
	switch {
	case f.Latency < 0:
		return errors.New("latency is negative")
	case !(f.ErrorRate >= 0 && f.ErrorRate <= 1):
		return errors.New("errorRate is not between 0 and 1")
	case f.Limit != (Limit{}) && (f.Limit.Operations < 0 || f.Limit.Per <= 0):
		return errors.New("limit needs operations >= 0 and per > 0")
	}
	return nil
}

// WriteFaults writes faults.json into an HSM's folder, in one step so that no
// operation sees half of it. The zero Faults end every disturbance that
// Options.Faults might bring; removing the file restores those.
func WriteFaults(dir string, f Faults) error {
	if err := f.validate(); err != nil {
		return invalid("write faults", "", "correct the faults", "%w", err)
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	unlock, err := lockWithin("write faults", dir)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := replaceFile(filepath.Join(dir, faultsFile), b)
	if err != nil {
		return err
	}
	return file.Close()
}

// disturber applies faults to the operations of one HSM.
type disturber struct {
	path     string
	fromOpts Faults
	now      func() time.Time

	mu          sync.Mutex
	text        []byte // the last faults.json seen, nil if there was none
	fromFile    Faults
	windowStart time.Time
	windowUsed  int
	errorDebt   float64 // errors owed; one is paid whenever it reaches 1
}

// reload reads faults.json, which is small enough to read before every operation;
// that is exact, where time stamps are not. A file that cannot be parsed, perhaps
// half written by an editor, leaves the last good faults in force.
func (d *disturber) reload() (Faults, error) {
	text, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.text = nil
		return d.fromOpts, nil
	}
	if err != nil {
		return d.lastGood(), err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text == nil {
		d.fromFile = d.fromOpts
	} else if bytes.Equal(text, d.text) {
		return d.fromFile, nil
	}
	d.text = text
	var f Faults
	if err := json.Unmarshal(text, &f); err != nil {
		return d.fromFile, err
	}
	d.fromFile = f
	return f, nil
}

func (d *disturber) lastGood() Faults {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text == nil {
		return d.fromOpts
	}
	return d.fromFile
}

// disturb lets one operation meet the faults.
func (d *disturber) disturb(ctx context.Context, f Faults, op, key string) error {
	if f.Latency > 0 {
		wait := time.NewTimer(f.Latency)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return interrupted(op, key, ctx)
		}
	}
	if f.Outage {
		return fail(envelope.ErrUnreachable, op, key, errors.New("simulated outage"), "end the outage in "+faultsFile+" or Options.Faults")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.errorDebt += f.ErrorRate; d.errorDebt >= 1 {
		d.errorDebt--
		return fail(envelope.ErrUnreachable, op, key, errors.New("simulated failure"), "try again, or lower errorRate")
	}
	if f.Limit != (Limit{}) {
		now := d.now()
		if age := now.Sub(d.windowStart); age < 0 || age >= f.Limit.Per {
			d.windowStart, d.windowUsed = now, 0
		}
		if d.windowUsed >= f.Limit.Operations {
			return fail(envelope.ErrThrottled, op, key,
				fmt.Errorf("limit of %d operations in %v", f.Limit.Operations, f.Limit.Per), "try again later, or raise the limit")
		}
		d.windowUsed++
	}
	return nil
}

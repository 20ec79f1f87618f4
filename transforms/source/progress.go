package source

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/millrace-ml/millrace/transforms/internal/keygroup"
)

func init() {
	beam.RegisterCoder(reflect.TypeOf((*group)(nil)).Elem(), encodeGroup, decodeGroup)
	beam.RegisterCoder(reflect.TypeOf((*progress)(nil)).Elem(), encodeProgress, decodeProgress)
}

// group is a share of the partitions of some addresses. The last of them, Replay, hold dead letters, those
// before them, Labels, hold labels.
type group struct {
	Addresses     []string
	Replay        int
	Group, Groups int
	Labels        int
	// Salt says where the runner puts the group; see place.
	Salt int `json:",omitempty"`
}

// place gives each group a salt with which it gets a subtask of its own. Flink puts a reader where its element hashes
// to, into one of so many groups of keys (0: [keygroup.Default]).
func place(groups []group, keyGroups int) {
	keyGroups = cmp.Or(keyGroups, keygroup.Default)
	n := len(groups)
	for i := range groups {
		want := min((i*keyGroups+n-1)/n, keyGroups-1) // the first that is of subtask i
		for keygroup.Of(string(encodeGroup(groups[i])), keyGroups) != want {
			groups[i].Salt++
		}
	}
}

func encodeGroup(g group) []byte { b, _ := json.Marshal(g); return b }

func decodeGroup(b []byte) (g group, err error) { return g, json.Unmarshal(b, &g) }

// replays tells whether an address holds dead letters.
func (g group) replays(address int) bool { return address >= len(g.Addresses)-g.Replay }

// labels tells whether an address holds labels.
func (g group) labels(address int) bool {
	return !g.replays(address) && address >= len(g.Addresses)-g.Replay-g.Labels
}

// progress is the restriction of a stream: where each partition stands. It is kept by the runner as JSON
// in this form, version 1; fields are only ever added.
type progress struct {
	V          int         `json:"v"`
	Partitions []partition `json:"partitions"`
	// Watermark is what was reported last, in microseconds: rows before it are late.
	Watermark int64 `json:"watermark"`
	// Done says that nothing more is to be read.
	Done bool `json:"done,omitempty"`
}

type partition struct {
	Address int    `json:"address"` // index in group.Addresses
	Name    string `json:"name"`
	Next    string `json:"next,omitempty"`
	// Newest is the largest event time read, in microseconds.
	Newest int64 `json:"newest"`
	Ended  bool  `json:"ended,omitempty"`
	// From and To are the place of its keys; see driver.Partition. Foreign, it is another group's, and here for that.
	From    float64 `json:"from,omitempty"`
	To      float64 `json:"to,omitempty"`
	Foreign bool    `json:"foreign,omitempty"`
}

// never is before all times.
const never = math.MinInt64

func encodeProgress(p progress) []byte { b, _ := json.Marshal(p); return b }

func decodeProgress(b []byte) (p progress, err error) { return p, json.Unmarshal(b, &p) }

func (p progress) clone() progress {
	p.Partitions = append([]partition(nil), p.Partitions...)
	return p
}

func (p progress) index(address int, name string) int {
	for i := range p.Partitions {
		if p.Partitions[i].Address == address && p.Partitions[i].Name == name {
			return i
		}
	}
	return -1
}

// tracker claims progress, and gives what is left when the call ends.
type tracker struct {
	at  progress
	err error
}

// TryClaim moves on to a later progress; after a split there is nothing left to claim.
func (t *tracker) TryClaim(pos any) bool {
	next, ok := pos.(progress)
	switch {
	case !ok:
		t.err = errors.New("claiming what is no progress")
		return false
	case t.at.Done:
		return false
	}
	t.at = next
	return true
}

func (t *tracker) GetError() error { return t.err }

// TrySplit hands all that is left to the residual. A live log has no other place to be cut.
func (t *tracker) TrySplit(fraction float64) (primary, residual any, err error) {
	if t.at.Done || fraction > 0 {
		return t.at, nil, nil
	}
	rest := t.at.clone()
	t.at.Done = true
	return t.at, rest, nil
}

func (t *tracker) GetProgress() (done, remaining float64) {
	if t.at.Done {
		return 1, 0
	}
	return 0, 1
}

func (t *tracker) IsDone() bool        { return t.at.Done }
func (t *tracker) GetRestriction() any { return t.at }
func (t *tracker) IsBounded() bool     { return t.at.Done }

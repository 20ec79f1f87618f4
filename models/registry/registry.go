package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gocloud.dev/blob"

	"github.com/millrace-ml/millrace/models/bundle"
)

var (
	// ErrNotFound reports a model, version or alias that is not there.
	ErrNotFound = errors.New("not in the registry")
	// ErrConflict reports an alias that is not, or no longer, where the caller expected it.
	ErrConflict = errors.New("alias was moved meanwhile")
	// ErrReadOnly reports a write to a registry that was opened without a clock.
	ErrReadOnly = errors.New("registry was opened without a clock, for reading only")
)

const (
	// Champion is the alias of the version that serves, and what a name alone means.
	Champion = "champion"
	// Latest stands for the highest version; it can't be set.
	Latest = "latest"
	// Any, as what SetAlias expects, moves the alias wherever it is.
	Any = -1
)

// Registry is safe for concurrent use.
type Registry struct {
	store store
	where string
	now   func() time.Time
	who   string
}

// Open opens the registry at a URL of a linked bucket driver (file:///abs, file://./relative,
// mem://, and where their drivers are imported gs://bucket/path, s3://bucket/path?region=...) or at
// the path of a folder, which is created. now gives the time of the history's entries; without it
// the registry can only be read.
func Open(ctx context.Context, url string, now func() time.Time) (*Registry, error) {
	s, err := openStore(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("opening registry %s: %w", url, err)
	}
	return &Registry{store: s, where: url, now: now}, nil
}

// New uses an open bucket, which Close closes. A folder needs Open: see the package's
// documentation.
func New(bucket *blob.Bucket, now func() time.Time) *Registry {
	return &Registry{store: store{bucket, ""}, where: "of the given bucket", now: now}
}

// As is the same registry, whose moves of aliases the history ascribes to who: a person or a program.
// It is closed with r.
func (r *Registry) As(who string) *Registry {
	own := *r
	own.who = who
	return &own
}

// Close closes the bucket.
func (r *Registry) Close() error { return r.store.Close() }

// Ref names one version.
type Ref struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	// Digest is the bundle's; with it Load accepts nothing else.
	Digest string `json:"digest"`
}

// String is name@version.
func (r Ref) String() string { return r.Name + "@" + strconv.Itoa(r.Version) }

// Model is what the registry holds of a name.
type Model struct {
	Name string `json:"name"`
	// Versions are ascending.
	Versions []int `json:"versions"`
	// Aliases give the version of each alias that is set.
	Aliases map[string]int `json:"aliases"`
}

// Event is an entry of the history.
type Event struct {
	Time time.Time `json:"time"`
	// Alias was moved from Previous to Version, 0 meaning nowhere; if it is empty, Version was
	// published.
	Alias    string `json:"alias,omitempty"`
	Version  int    `json:"version"`
	Previous int    `json:"previous,omitempty"`
	// Rollback says that the move went back.
	Rollback bool   `json:"rollback,omitempty"`
	Who      string `json:"who,omitempty"`
	Why      string `json:"why,omitempty"`

	sequence int
}

// String is the entry as a sentence, without the time.
func (e Event) String() string {
	why := ""
	if e.Who != "" {
		why = " by " + e.Who
	}
	if e.Why != "" {
		why += ": " + e.Why
	}
	switch {
	case e.Alias == "":
		return fmt.Sprintf("version %d published", e.Version)
	case e.Version == 0:
		return fmt.Sprintf("%s removed from version %d%s", e.Alias, e.Previous, why)
	case e.Rollback:
		return fmt.Sprintf("%s rolled back from version %d to %d%s", e.Alias, e.Previous, e.Version, why)
	case e.Previous == 0:
		return fmt.Sprintf("%s set to version %d%s", e.Alias, e.Version, why)
	}
	return fmt.Sprintf("%s moved from version %d to %d%s", e.Alias, e.Previous, e.Version, why)
}

// claim and alias are the stored records.
type claim struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
}

type alias struct {
	Version  int       `json:"version"`
	Previous int       `json:"previous"`
	Digest   string    `json:"digest"`
	Rollback bool      `json:"rollback,omitempty"`
	Who      string    `json:"who,omitempty"`
	Why      string    `json:"why"`
	Time     time.Time `json:"time"`
}

func (a alias) event(name string, sequence int) Event {
	return Event{Time: a.Time, Alias: name, Version: a.Version, Previous: a.Previous, Rollback: a.Rollback, Who: a.Who, Why: a.Why, sequence: sequence}
}

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?$`)
	aliasPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)
)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("model name %q: use letters, digits, '.', '_' and '-', at most 100", name)
	}
	return nil
}

func checkAlias(name string) error {
	if !aliasPattern.MatchString(name) || name == Latest {
		return fmt.Errorf("alias %q: use letters, digits, '_' and '-', a letter first, at most 63, and not %q", name, Latest)
	}
	return nil
}

// Publish stores b as the next version of name and returns its number. It sets b's Name and
// Version. No alias moves.
func (r *Registry) Publish(ctx context.Context, name string, b *bundle.Bundle) (int, error) {
	version, err := r.publish(ctx, name, b)
	if err != nil {
		return 0, fmt.Errorf("publishing %s: %w", name, err)
	}
	return version, nil
}

func (r *Registry) publish(ctx context.Context, name string, b *bundle.Bundle) (int, error) {
	if r.now == nil {
		return 0, ErrReadOnly
	}
	if err := checkName(name); err != nil {
		return 0, err
	}
	b.Name = name
	if err := b.Validate(); err != nil {
		return 0, err // before a number is spent on it
	}
	claims := name + "/claims/"
	taken, err := r.store.numbered(ctx, claims)
	if err != nil {
		return 0, err
	}
	version := 0
	if len(taken) > 0 {
		version = slices.Max(taken)
	}
	for {
		version++
		record, err := json.Marshal(claim{version, r.now().UTC()})
		if err != nil {
			return 0, err
		}
		err = r.store.create(ctx, claims+recordName(version), record)
		if err == nil {
			break
		}
		if !errors.Is(err, errTaken) {
			return 0, fmt.Errorf("claiming version %d: %w", version, err)
		}
	}
	b.Version = version
	return version, bundle.Write(ctx, r.store.Bucket, prefix(name, version), b)
}

func prefix(name string, version int) string {
	return name + "/versions/" + strconv.Itoa(version)
}

// Resolve finds the version that a spec means now: "fraud@7", "fraud@champion", "fraud@latest", or
// "fraud", which is its champion.
func (r *Registry) Resolve(ctx context.Context, spec string) (Ref, error) {
	ref, err := r.resolve(ctx, spec)
	if err != nil {
		return Ref{}, fmt.Errorf("resolving %s: %w", spec, err)
	}
	return ref, nil
}

func (r *Registry) resolve(ctx context.Context, spec string) (Ref, error) {
	name, which, ok := strings.Cut(spec, "@")
	if !ok {
		which = Champion
	}
	if err := checkName(name); err != nil {
		return Ref{}, err
	}
	if version, err := strconv.Atoi(which); err == nil && version > 0 {
		return r.version(ctx, name, version)
	}
	if which == Latest {
		versions, err := r.versions(ctx, name)
		if err != nil {
			return Ref{}, err
		}
		if len(versions) == 0 {
			return Ref{}, r.noModel(ctx, name)
		}
		return r.version(ctx, name, versions[len(versions)-1])
	}
	if err := checkAlias(which); err != nil {
		return Ref{}, err
	}
	a, _, err := r.alias(ctx, name, which)
	if err != nil {
		return Ref{}, err
	}
	if a.Version == 0 {
		return Ref{}, r.noAlias(ctx, name, which)
	}
	return Ref{name, a.Version, a.Digest}, nil
}

func (r *Registry) version(ctx context.Context, name string, version int) (Ref, error) {
	m, err := r.manifest(ctx, name, version)
	if err != nil {
		return Ref{}, err
	}
	return Ref{name, version, m.Digest}, nil
}

func (r *Registry) manifest(ctx context.Context, name string, version int) (bundle.Manifest, error) {
	p := prefix(name, version)
	there, err := r.store.Exists(ctx, p+"/manifest.json")
	if err != nil {
		return bundle.Manifest{}, err
	}
	if !there {
		versions, err := r.versions(ctx, name)
		if err != nil {
			return bundle.Manifest{}, err
		}
		if len(versions) == 0 {
			return bundle.Manifest{}, r.noModel(ctx, name)
		}
		return bundle.Manifest{}, fmt.Errorf("%s has no version %d, its versions are %v: %w", name, version, versions, ErrNotFound)
	}
	m, err := bundle.ReadManifest(ctx, r.store.Bucket, p)
	if err != nil {
		return bundle.Manifest{}, err
	}
	return m, samePlace(m, name, version)
}

// samePlace refuses a whole bundle that lies where another belongs: copied by hand, perhaps.
func samePlace(m bundle.Manifest, name string, version int) error {
	if m.Name != name || m.Version != version {
		return fmt.Errorf("the place of %s version %d holds %s version %d: restore it or publish anew: %w", name, version, m.Name, m.Version, bundle.ErrCorrupt)
	}
	return nil
}

func (r *Registry) noModel(ctx context.Context, name string) error {
	names, err := r.store.folders(ctx, "")
	if err != nil {
		return err
	}
	held := "it is empty"
	if len(names) > 0 {
		held = "it holds " + strings.Join(names, ", ")
	}
	return fmt.Errorf("no model %s in the registry %s (%s): run retrain first: %w", name, r.where, held, ErrNotFound)
}

func (r *Registry) noAlias(ctx context.Context, name, which string) error {
	versions, err := r.versions(ctx, name)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		return r.noModel(ctx, name)
	}
	return fmt.Errorf("%s has no %s; promote one of its versions %v, or name one, as in %s@%d: %w",
		name, which, versions, name, versions[len(versions)-1], ErrNotFound)
}

// Get resolves a spec and loads the bundle.
func (r *Registry) Get(ctx context.Context, spec string) (*bundle.Bundle, error) {
	ref, err := r.Resolve(ctx, spec)
	if err != nil {
		return nil, err
	}
	return r.Load(ctx, ref)
}

// Load opens the bundle of a version and checks it (see bundle.Open). If ref has a digest, any
// other bundle is refused as bundle.ErrCorrupt.
func (r *Registry) Load(ctx context.Context, ref Ref) (*bundle.Bundle, error) {
	b, err := r.load(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", ref, err)
	}
	return b, nil
}

func (r *Registry) load(ctx context.Context, ref Ref) (*bundle.Bundle, error) {
	if err := checkName(ref.Name); err != nil {
		return nil, err
	}
	m, err := r.manifest(ctx, ref.Name, ref.Version)
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" && m.Digest != ref.Digest {
		return nil, fmt.Errorf("its digest is %.12s, not %.12s: it was replaced by hand after it was resolved: %w", m.Digest, ref.Digest, bundle.ErrCorrupt)
	}
	b, err := bundle.Open(ctx, r.store.Bucket, prefix(ref.Name, ref.Version))
	if err != nil {
		return nil, err
	}
	if b.Digest != m.Digest {
		return nil, fmt.Errorf("it was replaced by hand while it was read: %w", bundle.ErrCorrupt)
	}
	return b, nil
}

// Manifest reads a version's manifest without loading its model.
func (r *Registry) Manifest(ctx context.Context, ref Ref) (bundle.Manifest, error) {
	if err := checkName(ref.Name); err != nil {
		return bundle.Manifest{}, err
	}
	return r.manifest(ctx, ref.Name, ref.Version)
}

// Verify loads what the spec means, with all checks, and lets it go.
func (r *Registry) Verify(ctx context.Context, spec string) (Ref, error) {
	ref, err := r.Resolve(ctx, spec)
	if err != nil {
		return Ref{}, err
	}
	_, err = r.Load(ctx, ref)
	return ref, err
}

// SetAlias points an alias of name at a version, or removes it with version 0; why goes into the
// history. expect is the version at which the caller saw it, 0 for nowhere, Any for wherever: if the
// alias is elsewhere, or moves meanwhile, nothing happens and the error is ErrConflict. With Any it
// always moves, after whoever was first.
func (r *Registry) SetAlias(ctx context.Context, name, aliasName string, version int, why string, expect int) error {
	if err := r.setAlias(ctx, name, aliasName, version, why, expect); err != nil {
		return fmt.Errorf("moving %s of %s: %w", aliasName, name, err)
	}
	return nil
}

func (r *Registry) setAlias(ctx context.Context, name, aliasName string, version int, why string, expect int) error {
	if r.now == nil {
		return ErrReadOnly
	}
	if err := errors.Join(checkName(name), checkAlias(aliasName)); err != nil {
		return err
	}
	if version < 0 {
		return fmt.Errorf("version %d is negative", version)
	}
	var digest string
	if version > 0 {
		ref, err := r.version(ctx, name, version)
		if err != nil {
			return err
		}
		digest = ref.Digest
	}
	for {
		current, sequence, err := r.alias(ctx, name, aliasName)
		if err != nil {
			return err
		}
		if expect != Any && current.Version != expect {
			return fmt.Errorf("it is at version %d, not %d: look at the history and try again: %w", current.Version, expect, ErrConflict)
		}
		err = r.move(ctx, name, aliasName, sequence+1, alias{Version: version, Previous: current.Version, Digest: digest, Why: why, Who: r.who, Time: r.now().UTC()})
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, errTaken):
			return err
		case expect != Any:
			return fmt.Errorf("another writer was first: look at the history and try again: %w", ErrConflict)
		}
	}
}

// move writes an alias's next record; errTaken if there is one of that number.
func (r *Registry) move(ctx context.Context, name, aliasName string, sequence int, a alias) error {
	record, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return r.store.create(ctx, aliasPrefix(name, aliasName)+recordName(sequence), record)
}

// Rollback moves an alias back to the version it pointed at before its last move, and returns what it
// wrote into the history. A second rollback goes back one further, not forward again. ErrNotFound if
// there is nothing before, ErrConflict if the alias moves meanwhile.
func (r *Registry) Rollback(ctx context.Context, name, aliasName, why string) (Event, error) {
	e, err := r.rollback(ctx, name, aliasName, why)
	if err != nil {
		return Event{}, fmt.Errorf("rolling back %s of %s: %w", aliasName, name, err)
	}
	return e, nil
}

func (r *Registry) rollback(ctx context.Context, name, aliasName, why string) (Event, error) {
	if r.now == nil {
		return Event{}, ErrReadOnly
	}
	if err := errors.Join(checkName(name), checkAlias(aliasName)); err != nil {
		return Event{}, err
	}
	moves, sequence, err := r.moves(ctx, name, aliasName)
	if err != nil {
		return Event{}, err
	}
	back := trail(moves)
	switch {
	case len(back) == 0 || len(back) == 1 && back[0].Version == 0:
		return Event{}, r.noAlias(ctx, name, aliasName)
	case len(back) == 1:
		return Event{}, fmt.Errorf("it points at version %d and never pointed at another before: promote one: %w", back[0].Version, ErrNotFound)
	}
	ref, err := r.version(ctx, name, back[len(back)-2].Version)
	if err != nil {
		return Event{}, err
	}
	a := alias{Version: ref.Version, Previous: back[len(back)-1].Version, Digest: ref.Digest, Rollback: true, Why: why, Who: r.who, Time: r.now().UTC()}
	err = r.move(ctx, name, aliasName, sequence+1, a)
	if errors.Is(err, errTaken) {
		return Event{}, fmt.Errorf("another writer was first: look at the history and try again: %w", ErrConflict)
	}
	return a.event(aliasName, sequence+1), err
}

// trail is the way back through an alias's moves: its last entry is where the alias is, the one before
// where a rollback takes it. A rollback takes the last entry off. An alias that was removed (version 0)
// is at the end or not at all, since nobody wants to go back to nothing.
func trail(moves []alias) []alias {
	var back []alias
	for _, m := range moves {
		if n := len(back); n > 0 && (m.Rollback || back[n-1].Version == 0) {
			back = back[:n-1]
		}
		if n := len(back); n == 0 || back[n-1].Version != m.Version || back[n-1].Digest != m.Digest {
			back = append(back, m)
		}
	}
	return back
}

// Trail lists the versions to which an alias points and, by one rollback after the other, would point,
// in this order. It is empty for an alias that was never set.
func (r *Registry) Trail(ctx context.Context, name, aliasName string) ([]Ref, error) {
	if err := errors.Join(checkName(name), checkAlias(aliasName)); err != nil {
		return nil, err
	}
	moves, _, err := r.moves(ctx, name, aliasName)
	if err != nil {
		return nil, fmt.Errorf("reading the moves of %s@%s: %w", name, aliasName, err)
	}
	var out []Ref
	for _, a := range slices.Backward(trail(moves)) {
		if a.Version > 0 {
			out = append(out, Ref{name, a.Version, a.Digest})
		}
	}
	return out, nil
}

// Follow reads where an alias points, for one who asks again and again. seen is the number of the move
// that the caller knows, at first 0. If the alias has not moved since, which the store tells by one look
// for one object, Follow returns seen as it is; else it returns the number of the last move and
// its version, which is 0 if the alias was removed.
func (r *Registry) Follow(ctx context.Context, name, aliasName string, seen int) (Ref, int, error) {
	if err := errors.Join(checkName(name), checkAlias(aliasName)); err != nil {
		return Ref{}, seen, err
	}
	var a alias
	sequence := seen
	moved, err := r.store.Exists(ctx, aliasPrefix(name, aliasName)+recordName(seen+1))
	if err == nil && moved {
		a, sequence, err = r.alias(ctx, name, aliasName)
	}
	switch {
	case err != nil:
		return Ref{}, seen, fmt.Errorf("following %s@%s: %w", name, aliasName, err)
	case sequence == seen:
		return Ref{}, seen, nil
	}
	return Ref{name, a.Version, a.Digest}, sequence, nil
}

func aliasPrefix(name, aliasName string) string { return name + "/aliases/" + aliasName + "/" }

// alias reads the current record and its number; both are zero if the alias was never set.
func (r *Registry) alias(ctx context.Context, name, aliasName string) (alias, int, error) {
	records, err := r.store.numbered(ctx, aliasPrefix(name, aliasName))
	if err != nil || len(records) == 0 {
		return alias{}, 0, err
	}
	sequence := slices.Max(records)
	var a alias
	return a, sequence, r.read(ctx, aliasPrefix(name, aliasName)+recordName(sequence), &a)
}

// moves reads all records of an alias, oldest first, and the number of the last.
func (r *Registry) moves(ctx context.Context, name, aliasName string) ([]alias, int, error) {
	records, err := r.store.numbered(ctx, aliasPrefix(name, aliasName))
	if err != nil || len(records) == 0 {
		return nil, 0, err
	}
	slices.Sort(records)
	out := make([]alias, len(records))
	for i, n := range records {
		if err := r.read(ctx, aliasPrefix(name, aliasName)+recordName(n), &out[i]); err != nil {
			return nil, 0, err
		}
	}
	return out, records[len(records)-1], nil
}

func (r *Registry) read(ctx context.Context, key string, record any) error {
	b, err := r.store.ReadAll(ctx, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, record); err != nil {
		return fmt.Errorf("%s is not a record (%w): restore it, or delete it to go back one", key, err)
	}
	return nil
}

// versions lists the whole versions, ascending.
func (r *Registry) versions(ctx context.Context, name string) ([]int, error) {
	names, err := r.store.having(ctx, name+"/versions/", "manifest.json")
	var out []int
	for _, folder := range names {
		if n, err := strconv.Atoi(folder); err == nil && n > 0 && folder == strconv.Itoa(n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, err
}

// Model reads the versions and aliases of a name; ErrNotFound if there is no whole version.
func (r *Registry) Model(ctx context.Context, name string) (Model, error) {
	if err := checkName(name); err != nil {
		return Model{}, err
	}
	m := Model{Name: name, Aliases: map[string]int{}}
	var err error
	if m.Versions, err = r.versions(ctx, name); err != nil {
		return Model{}, fmt.Errorf("reading versions of %s: %w", name, err)
	}
	if len(m.Versions) == 0 {
		return Model{}, r.noModel(ctx, name)
	}
	aliases, err := r.store.folders(ctx, name+"/aliases/")
	if err != nil {
		return Model{}, fmt.Errorf("reading aliases of %s: %w", name, err)
	}
	for _, aliasName := range aliases {
		a, _, err := r.alias(ctx, name, aliasName)
		if err != nil {
			return Model{}, fmt.Errorf("reading aliases of %s: %w", name, err)
		}
		if a.Version > 0 {
			m.Aliases[aliasName] = a.Version
		}
	}
	return m, nil
}

// List reads all models by name. What is not a model, or has no whole version yet, is left out.
func (r *Registry) List(ctx context.Context) ([]Model, error) {
	names, err := r.store.folders(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("listing registry %s: %w", r.where, err)
	}
	out := []Model{}
	for _, name := range names {
		if checkName(name) != nil {
			continue
		}
		m, err := r.Model(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing registry %s: %w", r.where, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// History reads what happened to a name, oldest first: whole versions published and aliases moved.
// Times are the writers' clocks; entries of one alias keep their true order.
func (r *Registry) History(ctx context.Context, name string) ([]Event, error) {
	events, err := r.history(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading the history of %s: %w", name, err)
	}
	return events, nil
}

func (r *Registry) history(ctx context.Context, name string) ([]Event, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	versions, err := r.versions(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return nil, r.noModel(ctx, name)
	}
	var out []Event
	for _, version := range versions {
		var c claim
		if err := r.read(ctx, name+"/claims/"+recordName(version), &c); err != nil {
			return nil, err
		}
		out = append(out, Event{Time: c.Time, Version: version, sequence: version})
	}
	aliases, err := r.store.folders(ctx, name+"/aliases/")
	if err != nil {
		return nil, err
	}
	for _, aliasName := range aliases {
		moves, _, err := r.moves(ctx, name, aliasName)
		if err != nil {
			return nil, err
		}
		var latest time.Time
		for i, a := range moves {
			// A writer whose clock is behind does not change the order of what happened.
			if a.Time.After(latest) {
				latest = a.Time
			}
			a.Time = latest
			out = append(out, a.event(aliasName, i))
		}
	}
	slices.SortStableFunc(out, func(a, b Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Alias, b.Alias), cmp.Compare(a.sequence, b.sequence))
	})
	return out, nil
}

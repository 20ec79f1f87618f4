package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"github.com/millrace-ml/millrace/models"
)

var (
	// ErrForeign reports a prefix without a bundle, or one of a newer format.
	ErrForeign = errors.New("not a bundle that this version reads")
	// ErrCorrupt reports a bundle that is not what was written.
	ErrCorrupt = errors.New("bundle is corrupt")
	// ErrFingerprint reports a bundle whose model expects other features.
	ErrFingerprint = errors.New("bundle expects other features")
	// ErrExists reports a prefix that already holds a bundle.
	ErrExists = errors.New("a bundle is already there")
)

const (
	// Format is the newest format that this version reads, and the one it writes.
	Format = 1

	kindOfManifest = "millrace-bundle"

	manifestName  = "manifest.json"
	goldenName    = "golden.json"
	referenceName = "reference.json"
	modelDir      = "model"

	maxManifest = 64 << 20
	maxFiles    = 4096
	maxBytes    = 4 << 30
)

// Manifest describes a bundle; the package's documentation explains the fields.
type Manifest struct {
	Type   string `json:"type"`
	Format int    `json:"format"`
	// Digest is the manifest's own SHA-256, in hexadecimal. Write sets it.
	Digest string `json:"manifest_sha256"`

	Name    string `json:"name"`
	Version int    `json:"version"`
	Parent  int    `json:"parent,omitempty"`
	// Kind, Outputs and Features are the model's; Write fills them in.
	Kind        string           `json:"kind"`
	Outputs     []string         `json:"outputs"`
	Features    []models.Feature `json:"features"`
	Fingerprint string           `json:"fingerprint"`
	Calibration string           `json:"calibration,omitempty"`
	Threshold   *float64         `json:"threshold,omitempty"`
	Params      map[string]any   `json:"params,omitempty"`
	Seed        uint64           `json:"seed,string"`
	// CodeRevision is the commit or release that trained the model.
	CodeRevision string   `json:"code_revision,omitempty"`
	Training     Training `json:"training"`
	Metrics      []Metric `json:"metrics"`
	Gate         *Gate    `json:"gate,omitempty"`
	// Files are all other objects by name. Write sets them.
	Files []File `json:"files"`
}

// Training says what the model learned from.
type Training struct {
	// From and To bound the event times, half open, in RFC 3339.
	From      string `json:"from"`
	To        string `json:"to"`
	Rows      int    `json:"rows,omitempty"`
	Positives int    `json:"positives,omitempty"`
	// DataDigest identifies the training rows.
	DataDigest string `json:"data_digest,omitempty"`
}

// Metric is a figure of the evaluation. Low, High and Confidence are 0 without an interval.
type Metric struct {
	Name       string  `json:"name"`
	Value      float64 `json:"value"`
	Low        float64 `json:"low,omitempty"`
	High       float64 `json:"high,omitempty"`
	Confidence float64 `json:"confidence,omitempty"`
	// Rows is how many rows it was measured on.
	Rows int `json:"rows,omitempty"`
}

// Gate is the verdict on publishing.
type Gate struct {
	Passed bool `json:"passed"`
	// Against is the version that was challenged, as name@version; empty for none.
	Against string   `json:"against,omitempty"`
	Reasons []string `json:"reasons"`
}

// File is one object of the bundle.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Validate reports all that can't be stored.
func (m *Manifest) Validate() error {
	var errs []error
	if m.Name == "" {
		errs = append(errs, errors.New("name is empty"))
	}
	if m.Version < 0 || m.Parent < 0 {
		errs = append(errs, fmt.Errorf("version %d with parent %d is negative", m.Version, m.Parent))
	}
	if m.Fingerprint == "" {
		errs = append(errs, errors.New("fingerprint is empty: without it a model could be fed other features"))
	}
	if m.Threshold != nil && !finite(*m.Threshold) {
		errs = append(errs, fmt.Errorf("threshold is %v", *m.Threshold))
	}
	for _, x := range m.Metrics {
		if !finite(x.Value) || !finite(x.Low) || !finite(x.High) {
			errs = append(errs, fmt.Errorf("metric %s is %v (%v to %v): leave out what is undefined", x.Name, x.Value, x.Low, x.High))
		}
	}
	return errors.Join(errs...)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// CheckFingerprint returns ErrFingerprint unless the bundle's features have the fingerprint want.
func (m *Manifest) CheckFingerprint(want string) error {
	if m.Fingerprint == want {
		return nil
	}
	return fmt.Errorf("%s version %d was trained on features %s, the use case computes %s: retrain, or use the use-case file that it was trained with: %w",
		m.Name, m.Version, m.Fingerprint, want, ErrFingerprint)
}

const zeroDigest = "0000000000000000000000000000000000000000000000000000000000000000"

// encode sets m's digest and returns the manifest's bytes.
func (m *Manifest) encode() ([]byte, error) {
	m.Type, m.Format, m.Digest = kindOfManifest, Format, zeroDigest
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	b = append(b, '\n')
	m.Digest = digest(b)
	return bytes.Replace(b, digestField(zeroDigest), digestField(m.Digest), 1), nil
}

func digestField(d string) []byte { return []byte(`"manifest_sha256": "` + d + `"`) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func decodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	var head struct {
		Type   string `json:"type"`
		Format int    `json:"format"`
	}
	if !json.Valid(b) {
		return m, fmt.Errorf("%s is not JSON, perhaps cut short: copy the bundle again or publish anew: %w", manifestName, ErrCorrupt)
	}
	// The head alone first: of a newer format nothing else can be relied on.
	if err := json.Unmarshal(b, &head); err != nil || head.Type != kindOfManifest || head.Format < 1 {
		return m, fmt.Errorf("%s is not a manifest of Millrace: %w", manifestName, ErrForeign)
	}
	if head.Format > Format {
		return m, fmt.Errorf("format %d, this version reads up to %d: upgrade Millrace: %w", head.Format, Format, ErrForeign)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %v: %w", manifestName, err, ErrCorrupt)
	}
	field := digestField(m.Digest)
	if len(m.Digest) != len(zeroDigest) || bytes.Count(b, field) != 1 ||
		digest(bytes.Replace(b, field, digestField(zeroDigest), 1)) != m.Digest {
		return m, fmt.Errorf("%s was altered after it was written: restore it or publish anew: %w", manifestName, ErrCorrupt)
	}
	if err := m.checkFiles(); err != nil {
		return m, fmt.Errorf("%s: %w: %w", manifestName, err, ErrCorrupt)
	}
	return m, nil
}

func (m *Manifest) checkFiles() error {
	if len(m.Files) > maxFiles {
		return fmt.Errorf("%d files are more than %d", len(m.Files), maxFiles)
	}
	seen := map[string]bool{}
	var total int64
	for _, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return err
		}
		if seen[f.Name] {
			return fmt.Errorf("file %q is listed twice", f.Name)
		}
		seen[f.Name] = true
		if f.Size < 0 || f.Size > maxBytes-total {
			return fmt.Errorf("file %q has a size of %d, in all above %d", f.Name, f.Size, int64(maxBytes))
		}
		total += f.Size
	}
	if !seen[goldenName] {
		return fmt.Errorf("no %s", goldenName)
	}
	return nil
}

// checkName keeps names inside the bundle and portable over file systems and object stores.
func checkName(name string) error {
	if name == goldenName || name == referenceName {
		return nil
	}
	rest, ok := strings.CutPrefix(name, modelDir+"/")
	if !ok || !fs.ValidPath(rest) || rest == "." || strings.ContainsFunc(rest, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`\:*?"<>|`, r)
	}) {
		return fmt.Errorf("file %q has no place in a bundle", name)
	}
	return nil
}

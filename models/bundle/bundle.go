package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/profile"
)

// Bundle is a model with what is known of it.
type Bundle struct {
	Manifest
	Model models.Model
	// Golden are input rows, row-major, that Write stores with their scores and Open checks:
	// PickGolden chooses them.
	Golden []float32
	// Reference is the profile of the evaluated rows; nil for none.
	Reference *profile.Profile
}

// Write stores b below prefix in the bucket, the manifest last. It fills in b's Kind, Outputs,
// Features, Files and Digest; the same bundle gives the same bytes. It returns ErrExists if the
// prefix holds a bundle; two concurrent writers of one prefix are the caller's to exclude (the
// registry does).
func Write(ctx context.Context, bucket *blob.Bucket, prefix string, b *Bundle) error {
	files, err := b.files(ctx)
	if err != nil {
		return fmt.Errorf("writing bundle %s: %w", prefix, err)
	}
	manifest, err := b.encode()
	if err != nil {
		return fmt.Errorf("writing bundle %s: %w", prefix, err)
	}
	if len(manifest) > maxManifest {
		return fmt.Errorf("writing bundle %s: a manifest of %d bytes is above %d: shorten the dictionaries", prefix, len(manifest), maxManifest)
	}
	exists, err := bucket.Exists(ctx, path.Join(prefix, manifestName))
	if err != nil {
		return fmt.Errorf("writing bundle %s: %w", prefix, err)
	}
	if exists {
		return fmt.Errorf("writing bundle %s: %w", prefix, ErrExists)
	}
	for _, f := range b.Files {
		if err := bucket.WriteAll(ctx, path.Join(prefix, f.Name), files[f.Name], nil); err != nil {
			return fmt.Errorf("writing bundle %s: %s: %w", prefix, f.Name, err)
		}
	}
	err = bucket.WriteAll(ctx, path.Join(prefix, manifestName), manifest, &blob.WriterOptions{IfNotExist: true})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return fmt.Errorf("writing bundle %s: %w", prefix, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("writing bundle %s: %s: %w", prefix, manifestName, err)
	}
	return nil
}

// files encodes everything but the manifest, whose fields it completes.
func (b *Bundle) files(ctx context.Context) (map[string][]byte, error) {
	if b.Model == nil {
		return nil, errors.New("there is no model")
	}
	b.Kind, b.Outputs, b.Features = b.Model.Kind(), b.Model.Outputs(), b.Model.Inputs()
	if err := b.Validate(); err != nil {
		return nil, err
	}
	stored, err := b.Model.Files()
	if err != nil {
		return nil, fmt.Errorf("encoding the model: %w", err)
	}
	files := map[string][]byte{}
	for name, content := range stored {
		files[modelDir+"/"+name] = content
	}
	if files[goldenName], err = encodeGolden(ctx, b.Model, b.Golden); err != nil {
		return nil, err
	}
	if b.Reference != nil {
		if err := b.checkReference(b.Reference); err != nil {
			return nil, err
		}
		if files[referenceName], err = json.Marshal(b.Reference); err != nil {
			return nil, fmt.Errorf("encoding the reference: %w", err)
		}
	}
	b.Files = nil
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b.Files = append(b.Files, File{name, int64(len(files[name])), digest(files[name])})
	}
	return files, b.checkFiles()
}

func (m *Manifest) checkReference(p *profile.Profile) error {
	var columns, outputs []string
	for _, c := range p.Columns {
		columns = append(columns, c.Name)
	}
	for _, c := range p.Outputs {
		outputs = append(outputs, c.Name)
	}
	if !slices.Equal(columns, names(m.Features)) || !slices.Equal(outputs, m.Outputs) {
		return fmt.Errorf("the reference profiles %v and %v, the model has %v and %v", columns, outputs, names(m.Features), m.Outputs)
	}
	return nil
}

func names(features []models.Feature) []string {
	var out []string
	for _, f := range features {
		out = append(out, f.Name)
	}
	return out
}

// ReadManifest reads and checks the manifest alone: enough to list or to pin a bundle.
func ReadManifest(ctx context.Context, bucket *blob.Bucket, prefix string) (Manifest, error) {
	m, err := readManifest(ctx, bucket, prefix)
	if err != nil {
		return Manifest{}, fmt.Errorf("opening bundle %s: %w", prefix, err)
	}
	return m, nil
}

// Open loads the bundle below prefix and checks it as the package's documentation says.
func Open(ctx context.Context, bucket *blob.Bucket, prefix string) (*Bundle, error) {
	b, err := open(ctx, bucket, prefix)
	if err != nil {
		return nil, fmt.Errorf("opening bundle %s: %w", prefix, err)
	}
	return b, nil
}

func open(ctx context.Context, bucket *blob.Bucket, prefix string) (*Bundle, error) {
	m, err := readManifest(ctx, bucket, prefix)
	if err != nil {
		return nil, err
	}
	kind, err := models.Lookup(m.Kind)
	if err != nil {
		return nil, err
	}
	model, files := models.Files{}, map[string][]byte{}
	for _, f := range m.Files {
		content, err := readFile(ctx, bucket, path.Join(prefix, f.Name), f)
		if err != nil {
			return nil, err
		}
		if name, ok := strings.CutPrefix(f.Name, modelDir+"/"); ok {
			model[name] = content
		} else {
			files[f.Name] = content
		}
	}
	b := &Bundle{Manifest: m}
	if b.Model, err = kind.Load(model); err != nil {
		return nil, fmt.Errorf("loading a model of kind %s: %w: %w", m.Kind, err, ErrCorrupt)
	}
	if !sameFeatures(b.Model.Inputs(), m.Features) || !slices.Equal(b.Model.Outputs(), m.Outputs) {
		return nil, fmt.Errorf("the manifest says %v to %v, the model reads %v to %v: %w",
			names(m.Features), m.Outputs, names(b.Model.Inputs()), b.Model.Outputs(), ErrCorrupt)
	}
	if b.Golden, err = checkGolden(ctx, b.Model, files[goldenName]); err != nil {
		return nil, err
	}
	if raw, ok := files[referenceName]; ok {
		b.Reference = &profile.Profile{}
		if err := json.Unmarshal(raw, b.Reference); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", referenceName, err, ErrCorrupt)
		}
		if err := m.checkReference(b.Reference); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", referenceName, err, ErrCorrupt)
		}
	}
	return b, nil
}

func sameFeatures(a, b []models.Feature) bool {
	return slices.EqualFunc(a, b, func(x, y models.Feature) bool {
		// An empty dictionary and none are the same.
		return x.Name == y.Name && x.Type == y.Type && slices.Equal(x.Categories, y.Categories)
	})
}

func readManifest(ctx context.Context, bucket *blob.Bucket, prefix string) (Manifest, error) {
	r, err := bucket.NewReader(ctx, path.Join(prefix, manifestName), nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return Manifest{}, fmt.Errorf("there is no %s: the path is wrong, or writing was cut short: %w", manifestName, ErrForeign)
	}
	if err != nil {
		return Manifest{}, err
	}
	defer r.Close()
	if r.Size() > maxManifest {
		return Manifest{}, fmt.Errorf("%s has %d bytes, above %d: %w", manifestName, r.Size(), maxManifest, ErrForeign)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return Manifest{}, fmt.Errorf("reading %s: %w", manifestName, err)
	}
	return decodeManifest(b)
}

// readFile reads an object whose size and digest are known.
func readFile(ctx context.Context, bucket *blob.Bucket, key string, f File) ([]byte, error) {
	r, err := bucket.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, fmt.Errorf("%s is missing: copy the bundle again or publish anew: %w", f.Name, ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() != f.Size {
		return nil, fmt.Errorf("%s has %d bytes, the manifest says %d: copy the bundle again or publish anew: %w", f.Name, r.Size(), f.Size, ErrCorrupt)
	}
	// The store has that many bytes, so the allocation is backed by data.
	b := make([]byte, f.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name, err)
	}
	if got := digest(b); got != f.SHA256 {
		return nil, fmt.Errorf("%s has the digest %.12s, the manifest says %.12s: copy the bundle again or publish anew: %w", f.Name, got, f.SHA256, ErrCorrupt)
	}
	return b, nil
}

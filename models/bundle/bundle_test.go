package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/profile"
)

var update = flag.Bool("update", false, "write the fixture of the current format; never of an older one")

// toy is a logistic model, small enough to read in a fixture.
type toy struct {
	Features []models.Feature `json:"features"`
	Weights  []float64        `json:"weights"`
	Bias     float64          `json:"bias"`
	drift    float32
}

func init() {
	models.Register(models.Kind{Name: "toy", Load: func(files models.Files) (models.Model, error) {
		var t toy
		if err := json.Unmarshal(files["weights.json"], &t); err != nil || len(t.Weights) != len(t.Features) {
			return nil, fmt.Errorf("weights.json: %w", models.ErrFiles)
		}
		return &t, nil
	}})
}

func (t *toy) Kind() string             { return "toy" }
func (t *toy) Inputs() []models.Feature { return t.Features }
func (t *toy) Outputs() []string        { return []string{"score"} }

func (t *toy) Files() (models.Files, error) {
	b, err := json.Marshal(t)
	return models.Files{"weights.json": b, "notes/empty": nil}, err
}

func (t *toy) Score(_ context.Context, x []float32, rows int, out []float32) error {
	if err := models.CheckShape(len(t.Features), 1, x, rows, out); err != nil {
		return err
	}
	for r := range rows {
		z := t.Bias
		for i, w := range t.Weights {
			if v := float64(x[r*len(t.Weights)+i]); !math.IsNaN(v) {
				z += w * v
			}
		}
		out[r] = float32(1/(1+math.Exp(-z))) + t.drift
	}
	return nil
}

func toyBundle(t testing.TB) *Bundle {
	t.Helper()
	m := &toy{
		Features: []models.Feature{
			{Name: "amount", Type: models.Number},
			{Name: "country", Type: models.Category, Categories: []string{"fr", "de", `it "x"`}},
		},
		Weights: []float64{0.5, -0.25}, Bias: -1,
	}
	d := models.Dataset{Features: m.Features}
	for i := range 100 {
		amount := float32(i) / 10
		if i%10 == 3 {
			amount = float32(math.NaN())
		}
		d.X = append(d.X, amount, float32(i%4))
		d.Y = append(d.Y, float32(i%2))
	}
	scores := make([]float32, d.Rows())
	if err := m.Score(t.Context(), d.X, d.Rows(), scores); err != nil {
		t.Fatal(err)
	}
	reference, err := profile.Of(d, m.Outputs(), scores)
	if err != nil {
		t.Fatal(err)
	}
	threshold := 0.75
	return &Bundle{
		Manifest: Manifest{
			Name: "fraud", Version: 7, Parent: 6, Fingerprint: "3fa2c1",
			Calibration: "isotonic", Threshold: &threshold, Params: map[string]any{"rate": 0.1},
			Seed: math.MaxUint64, CodeRevision: "v0.1.0",
			Training: Training{From: "2018-07-25T00:00:00Z", To: "2018-08-01T00:00:00Z", Rows: 100, Positives: 50, DataDigest: "sha256:00"},
			Metrics:  []Metric{{Name: "auc", Value: 0.871, Low: 0.85, High: 0.89, Confidence: 0.95, Rows: 58264}},
			Gate:     &Gate{Passed: true, Against: "fraud@6", Reasons: []string{"average_precision gains 0.01"}},
		},
		Model:     m,
		Golden:    PickGolden(d.X, 2, scores),
		Reference: reference,
	}
}

func memory(t testing.TB) *blob.Bucket {
	bucket := memblob.OpenBucket(nil)
	t.Cleanup(func() { bucket.Close() })
	return bucket
}

func TestRoundTrip(t *testing.T) {
	ctx, bucket := t.Context(), memory(t)
	b := toyBundle(t)
	if err := Write(ctx, bucket, "a/b", b); err != nil {
		t.Fatal(err)
	}
	got, err := Open(ctx, bucket, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.Manifest, got.Manifest); diff != "" {
		t.Errorf("manifest differs: %s", diff)
	}
	if len(got.Golden) != 2*GoldenRows {
		t.Errorf("%d golden values, want %d", len(got.Golden), 2*GoldenRows)
	}
	for i, v := range got.Golden {
		if v != b.Golden[i] && !(v != v && b.Golden[i] != b.Golden[i]) {
			t.Errorf("golden value %d is %v, was %v", i, v, b.Golden[i])
		}
	}
	if got.Reference.Rows != 100 || got.Reference.Columns[0].Nulls != 10 {
		t.Errorf("reference is %+v", got.Reference)
	}
	if m, err := ReadManifest(ctx, bucket, "a/b"); err != nil || m.Digest != b.Digest {
		t.Errorf("reading the manifest alone: %v", err)
	}
	if err := Write(ctx, bucket, "a/b", toyBundle(t)); !errors.Is(err, ErrExists) {
		t.Errorf("writing over a bundle: %v, want ErrExists", err)
	}
	if err := Write(ctx, bucket, "c", toyBundle(t)); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(b.Files, File{Name: manifestName}) {
		one, err1 := bucket.ReadAll(ctx, "a/b/"+f.Name)
		two, err2 := bucket.ReadAll(ctx, "c/"+f.Name)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: the same bundle gives other bytes: %v", f.Name, err)
		}
	}
	if err := got.CheckFingerprint("3fa2c1"); err != nil {
		t.Error(err)
	}
	if err := got.CheckFingerprint("other"); !errors.Is(err, ErrFingerprint) {
		t.Errorf("another fingerprint: %v", err)
	}
}

func TestPickGolden(t *testing.T) {
	scores := make([]float32, 1000)
	x := make([]float32, 1000)
	for i := range x {
		x[i], scores[i] = float32(i), float32((i*7)%1000)
	}
	got := PickGolden(x, 1, scores)
	if len(got) != GoldenRows || scores[int(got[0])] != 0 || scores[int(got[GoldenRows-1])] != 999 {
		t.Errorf("picked %v", got)
	}
	for i := 1; i < len(got); i++ {
		if step := scores[int(got[i])] - scores[int(got[i-1])]; step < 15 || step > 16 {
			t.Errorf("step of %v between ranks %d and %d", step, i-1, i)
		}
	}
	if got := PickGolden(x[:1], 1, scores[:1]); len(got) != 1 {
		t.Errorf("picked %v of one row", got)
	}
	if got := PickGolden(nil, 1, nil); got != nil {
		t.Errorf("picked %v of nothing", got)
	}
}

func TestWriteRefuses(t *testing.T) {
	nan := math.NaN()
	for name, change := range map[string]func(b *Bundle){
		"no model":       func(b *Bundle) { b.Model = nil },
		"no name":        func(b *Bundle) { b.Name = "" },
		"no fingerprint": func(b *Bundle) { b.Fingerprint = "" },
		"NaN metric":     func(b *Bundle) { b.Metrics[0].Value = nan },
		"NaN threshold":  func(b *Bundle) { b.Threshold = &nan },
		"no golden":      func(b *Bundle) { b.Golden = nil },
		"ragged golden":  func(b *Bundle) { b.Golden = b.Golden[1:] },
		"infinite input": func(b *Bundle) { b.Golden[0] = float32(math.Inf(1)) },
		"NaN scores":     func(b *Bundle) { b.Model.(*toy).drift = float32(nan) },
		"other profile":  func(b *Bundle) { b.Reference.Columns[0].Name = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			bucket, b := memory(t), toyBundle(t)
			change(b)
			if err := Write(t.Context(), bucket, "p", b); err == nil {
				t.Error("was written")
			}
			if m, err := ReadManifest(t.Context(), bucket, "p"); !errors.Is(err, ErrForeign) {
				t.Errorf("left a bundle: %v %v", m, err)
			}
		})
	}
}

// stored is a bundle as its objects, to be damaged.
func stored(t testing.TB) map[string][]byte {
	bucket, b := memory(t), toyBundle(t)
	if err := Write(t.Context(), bucket, "", b); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range append(b.Files, File{Name: manifestName}) {
		content, err := bucket.ReadAll(t.Context(), f.Name)
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name] = content
	}
	return out
}

func put(t testing.TB, objects map[string][]byte) *blob.Bucket {
	bucket := memory(t)
	for name, content := range objects {
		if err := bucket.WriteAll(t.Context(), name, content, nil); err != nil {
			t.Fatal(err)
		}
	}
	return bucket
}

// resign makes the manifest true to itself and to the other objects again, so that a test reaches
// what lies behind the digests.
func resign(t testing.TB, objects map[string][]byte, change func(m *Manifest)) {
	var m Manifest
	if err := json.Unmarshal(objects[manifestName], &m); err != nil {
		t.Fatal(err)
	}
	for i, f := range m.Files {
		content := objects[f.Name]
		m.Files[i].Size, m.Files[i].SHA256 = int64(len(content)), digest(content)
	}
	if change != nil {
		change(&m)
	}
	raw, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	objects[manifestName] = raw
}

func TestOpenRefuses(t *testing.T) {
	replace := func(name, old, new string) func(t *testing.T, o map[string][]byte) {
		return func(t *testing.T, o map[string][]byte) {
			changed := bytes.Replace(o[name], []byte(old), []byte(new), 1)
			if bytes.Equal(changed, o[name]) {
				t.Fatalf("%q is not in %s", old, o[name])
			}
			o[name] = changed
		}
	}
	behind := func(damage func(t *testing.T, o map[string][]byte), change func(m *Manifest)) func(t *testing.T, o map[string][]byte) {
		return func(t *testing.T, o map[string][]byte) {
			if damage != nil {
				damage(t, o)
			}
			resign(t, o, change)
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, o map[string][]byte)
		want   error
		says   string
	}{
		"nothing there":      {func(t *testing.T, o map[string][]byte) { clear(o) }, ErrForeign, "no manifest.json"},
		"half written":       {func(t *testing.T, o map[string][]byte) { delete(o, manifestName) }, ErrForeign, "cut short"},
		"other JSON":         {func(t *testing.T, o map[string][]byte) { o[manifestName] = []byte(`{"name":"x"}`) }, ErrForeign, "not a manifest"},
		"a JSON list":        {func(t *testing.T, o map[string][]byte) { o[manifestName] = []byte(`[]`) }, ErrForeign, "not a manifest"},
		"newer format":       {replace(manifestName, `"format": 1`, `"format": 2`), ErrForeign, "upgrade"},
		"cut manifest":       {func(t *testing.T, o map[string][]byte) { o[manifestName] = o[manifestName][:200] }, ErrCorrupt, "cut short"},
		"altered threshold":  {replace(manifestName, `0.75`, `0.25`), ErrCorrupt, "altered"},
		"altered digest":     {replace(manifestName, `"manifest_sha256": "`, `"manifest_sha256": "00`), ErrCorrupt, "altered"},
		"cut weights":        {func(t *testing.T, o map[string][]byte) { o["model/weights.json"] = o["model/weights.json"][:9] }, ErrCorrupt, "9 bytes"},
		"flipped weight":     {replace("model/weights.json", "-0.25", "-0.26"), ErrCorrupt, "digest"},
		"missing weights":    {func(t *testing.T, o map[string][]byte) { delete(o, "model/weights.json") }, ErrCorrupt, "weights.json is missing"},
		"missing reference":  {func(t *testing.T, o map[string][]byte) { delete(o, referenceName) }, ErrCorrupt, "missing"},
		"foreign weights":    {behind(replace("model/weights.json", "[0.5,", "["), nil), ErrCorrupt, "kind toy"},
		"wrong weights":      {behind(replace("model/weights.json", "-0.25", "-0.251"), nil), ErrCorrupt, "golden row"},
		"wrong golden":       {behind(replace(goldenName, `"scores":[[0.`, `"scores":[[1.`), nil), ErrCorrupt, "golden row 0"},
		"null golden score":  {behind(replace(goldenName, `"scores":[[`, `"scores":[[null],[`), nil), ErrCorrupt, "65 scores"},
		"text golden":        {behind(replace(goldenName, `[[`, `[["x",`), nil), ErrCorrupt, goldenName},
		"ragged golden":      {behind(replace(goldenName, `"inputs":[[`, `"inputs":[[1,`), nil), ErrCorrupt, "3 inputs"},
		"empty golden":       {behind(func(t *testing.T, o map[string][]byte) { o[goldenName] = []byte(`{}`) }, nil), ErrCorrupt, "0 rows"},
		"foreign profile":    {behind(replace(referenceName, `"format":1`, `"format":9`), nil), ErrCorrupt, referenceName},
		"other profile":      {behind(replace(referenceName, `"amount"`, `"amounts"`), nil), ErrCorrupt, "amounts"},
		"renamed feature":    {behind(nil, func(m *Manifest) { m.Features[0].Name = "x" }), ErrCorrupt, "manifest says"},
		"other dictionary":   {behind(nil, func(m *Manifest) { m.Features[1].Categories[0] = "x" }), ErrCorrupt, "manifest says"},
		"other output":       {behind(nil, func(m *Manifest) { m.Outputs[0] = "x" }), ErrCorrupt, "manifest says"},
		"unknown kind":       {behind(nil, func(m *Manifest) { m.Kind = "x" }), models.ErrUnknownKind, "this binary links"},
		"no golden listed":   {behind(nil, func(m *Manifest) { m.Files = m.Files[1:] }), ErrCorrupt, "no golden.json"},
		"listed twice":       {behind(nil, func(m *Manifest) { m.Files = append(m.Files, m.Files[0]) }), ErrCorrupt, "twice"},
		"file outside":       {behind(nil, func(m *Manifest) { m.Files[1].Name = "model/../../x" }), ErrCorrupt, "no place"},
		"absolute file":      {behind(nil, func(m *Manifest) { m.Files[1].Name = "/etc/passwd" }), ErrCorrupt, "no place"},
		"manifest in itself": {behind(nil, func(m *Manifest) { m.Files[1].Name = manifestName }), ErrCorrupt, "no place"},
		"huge file":          {behind(nil, func(m *Manifest) { m.Files[1].Size = math.MaxInt64 }), ErrCorrupt, "above"},
		"huge together":      {behind(nil, func(m *Manifest) { m.Files[1].Size, m.Files[2].Size = maxBytes-10, 4000 }), ErrCorrupt, "above"},
		"large on paper":     {behind(nil, func(m *Manifest) { m.Files[1].Size = 3 << 30 }), ErrCorrupt, "manifest says 3221225472"},
		"negative size":      {behind(nil, func(m *Manifest) { m.Files[1].Size = -1 }), ErrCorrupt, "size of -1"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := stored(t)
			c.damage(t, objects)
			_, err := Open(t.Context(), put(t, objects), "")
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

func TestEveryBitCounts(t *testing.T) {
	whole := stored(t)
	for name, content := range whole {
		for i := range content {
			if len(content) > 2000 && i%37 != 0 {
				continue // a sample of the long ones
			}
			damaged := map[string][]byte{}
			for n, c := range whole {
				damaged[n] = c
			}
			damaged[name] = slices.Clone(content)
			damaged[name][i] ^= 1
			if _, err := Open(t.Context(), put(t, damaged), ""); err == nil {
				t.Errorf("%s: bit 0 of byte %d (%q) may flip", name, i, content[i])
			}
		}
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	objects := stored(t)
	raw := bytes.Replace(objects[manifestName], []byte("{\n"), []byte("{\n  \"later\": {\"x\": [1]},\n"), 1)
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	zero := bytes.Replace(raw, digestField(m.Digest), digestField(zeroDigest), 1)
	objects[manifestName] = bytes.Replace(zero, digestField(zeroDigest), digestField(digest(zero)), 1)
	if _, err := Open(t.Context(), put(t, objects), ""); err != nil {
		t.Error(err)
	}
}

// TestUpgrade opens the bundle that each earlier format left behind.
func TestUpgrade(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{CreateDir: true, Metadata: fileblob.MetadataDontWrite, NoTempDir: true})
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	if *update {
		newest := fmt.Sprintf("format%d", Format)
		if err := os.RemoveAll(filepath.Join(dir, newest)); err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), bucket, newest, toyBundle(t)); err != nil {
			t.Fatal(err)
		}
	}
	for format := 1; format <= Format; format++ {
		b, err := Open(t.Context(), bucket, fmt.Sprintf("format%d", format))
		if err != nil {
			t.Fatal(err)
		}
		if *b.Threshold != 0.75 || b.Seed != math.MaxUint64 || b.Version != 7 || b.Features[1].Categories[2] != `it "x"` || b.Reference.Rows != 100 {
			t.Errorf("format %d reads as %+v", format, b.Manifest)
		}
	}
}

func FuzzOpen(f *testing.F) {
	objects := stored(f)
	f.Add(objects[manifestName], objects["model/weights.json"], objects[goldenName], objects[referenceName], false)
	f.Add(objects[manifestName], objects["model/weights.json"], objects[goldenName], objects[referenceName], true)
	f.Fuzz(func(t *testing.T, manifest, weights, golden, reference []byte, sign bool) {
		objects := map[string][]byte{
			manifestName: manifest, "model/weights.json": weights, "model/notes/empty": nil,
			goldenName: golden, referenceName: reference,
		}
		var m Manifest
		if sign && json.Unmarshal(manifest, &m) == nil {
			resign(t, objects, nil)
		}
		b, err := Open(t.Context(), put(t, objects), "")
		if err == nil {
			if len(b.Golden) == 0 || b.Model == nil {
				t.Fatal("opened without a model or goldens")
			}
			return
		}
		if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, models.ErrUnknownKind) {
			t.Fatalf("error without a class: %v", err)
		}
	})
}

// Package bundle stores a trained model with all that is needed to trust and to watch it, as a
// directory or an object prefix. [Write] makes one, [Open] loads and checks one.
//
// # Format 1
//
// A bundle is these objects below one prefix; others are ignored.
//
//   - model/...: the files of the model's kind, under the names that [models.Model] gave them.
//   - golden.json: {"inputs": [[...], ...], "scores": [[...], ...]}, at least 1 and at most 1,024
//     rows (64 by convention) with their scores. Numbers are float32 in shortest decimal; NaN, the
//     null, is null.
//   - reference.json: the profile of every feature and output over the evaluated rows, in the format
//     of package profile. Optional.
//   - manifest.json, written last: without it the prefix holds no bundle, so a bundle is whole or
//     absent.
//
// manifest.json is one object:
//
//   - type: "millrace-bundle"; format: 1.
//   - manifest_sha256: the digest of the manifest itself, 64 hexadecimal digits: SHA-256 of the
//     file's bytes with these 64 digits replaced by zeros. It is the bundle's digest, since the
//     manifest holds the digests of all other files.
//   - name, version (0 outside a registry), parent (the version of the model that it challenged; 0
//     for none), kind.
//   - outputs: the names of a row's values. features: the inputs in order, {"name", "type":
//     "number" | "category", "categories": [dictionary]}.
//   - fingerprint: of the feature section that computed the inputs.
//   - calibration: how scores were made probabilities ("none", "isotonic", ...), for the reader; the
//     calibration itself is part of the model's files. threshold: the score from which decisions
//     call a row positive; absent for none.
//   - params: the hyper-parameters by name; seed, as a string, since JSON's numbers end at 2^53;
//     code_revision.
//   - training: {"from", "to", "rows", "positives", "data_digest"}; from and to are RFC 3339.
//   - metrics: [{"name", "value", "low", "high", "confidence", "rows"}]; low, high and confidence
//     are absent without an interval.
//   - gate: {"passed", "against", "reasons"}, the verdict under which the model was published.
//   - files: [{"name", "size", "sha256"}] of every other object, by name.
//
// Fields may be added within a format, and a reader ignores those that it does not know. A change
// that an older reader would misread raises the format, and readers refuse formats newer than
// theirs; every format ever written stays readable (testdata holds one bundle of each).
//
// # Loading
//
// Open reads nothing longer than it said it would be: the manifest up to 64 MiB, any other file
// only if the store's size is the manifest's, all together up to 4 GiB. It checks digests, loads the
// model through its kind's Load, compares inputs and outputs, and scores the golden rows again: each
// must be within 1e-5 of the stored score (relative above 1), else this machine would not score as
// the one that trained. Nothing in a bundle is ever executed.
//
// # Errors
//
// [ErrForeign] when the prefix holds no bundle or one of a newer format, [ErrCorrupt] when what is
// there is not what was written, [ErrFingerprint] when a bundle expects other features,
// [ErrExists] when Write would replace a bundle. A kind that is not linked is
// models.ErrUnknownKind. Errors of the store itself carry none of these: try again.
package bundle

// Package blob connects to object stores through gocloud.dev/blob: gs://bucket/key (Google Cloud
// Storage), s3://bucket/key, and mem://bucket/key, which lives in this process only.
//
// A source may be an object, a glob (`*`, `?`, `[a-z]`; not before the first slash), or a prefix that
// ends in a slash: of one with a `_manifest.json` the parts that it names are read. A sink may be an
// object or such a prefix. The query goes to the bucket's opener: `s3://b/k?region=eu-west-1`.
//
// # Errors
//
// Credentials come from the environment, as the cloud's own tools take them. Objects appear whole by
// one PUT each; what a broken upload left is aborted.
package blob

// Package blob connects to object stores through gocloud.dev/blob: gs://bucket/key (Google Cloud
// Storage), s3://bucket/key, and mem://bucket/key, which lives in this process only.
//
// A source may be an object, a glob (`*`, `?`, `[a-z]`; not before the first slash), or a prefix that
// ends in a slash: of one with a `_manifest.json` the parts that it names are read. A sink may be an
// object or such a prefix. The query goes to the bucket's opener: `s3://b/k?region=eu-west-1`.
//
// # Following
//
// A stream follows an object, a glob or a prefix: objects are read as they appear, each whole, in order of
// names; one that is overwritten is another one, and is read too. Package tail says in which order, and
// which names are found that appear late. All objects of an address are one partition. Objects whose last
// name begins with "." are left out, of a prefix those with "_" too, and what lies in sub-prefixes. A
// parameter that doesn't go to the bucket's opener:
//
//   - poll=10s (the default): how often to list. While there are more than a thousand names, the store
//     lists from the last name on, and all once in thirty times.
//
// # Errors
//
// A store that can't be reached while it is followed is asked again as long as it takes.
//
// Credentials come from the environment, as the cloud's own tools take them. Objects appear whole by
// one PUT each; what a broken upload left is aborted.
package blob

// Package file connects to files of the local machine: plain paths and file:// URLs.
//
// A source may be a file, a glob (`*`, `?`, `[a-z]`), or a folder: of one with a `_manifest.json`
// the parts that it names are read, of another all files that don't begin with "." or "_". Files
// that begin with the gzip magic are taken as compressed, whatever they are called.
//
// # Following
//
// A stream follows a file, a folder or a glob: new files are read as they appear, and lines as they are
// appended. A file that is rotated, truncated or replaced is read on as tail -F would; package tail
// says exactly what is read, and in which order. All files of an address are one partition. Files whose
// names begin with "." are left out, in folders those with "_" too. A file:// URL takes a parameter:
//
//   - poll=1s (the default): how often to look for files and lines
//
// What lies in a folder when it is first followed is read too, from its beginning.
//
// # Sinks
//
// A sink may be a file, or a folder (a path that ends in a slash, or an existing folder). Missing
// folders are made. A device or a pipe (/dev/null) is written at the commit.
//
// # Non-obvious
//
// A chunk that needs no joining becomes the target by a hard link and a rename, without copying;
// where the file system has no hard links it is copied.
package file

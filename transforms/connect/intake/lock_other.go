//go:build !unix

package intake

import "os"

// lockFile opens a file: the port that is taken keeps a second process away.
func lockFile(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666) }

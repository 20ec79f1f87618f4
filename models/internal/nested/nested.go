package nested

import (
	"fmt"
	"strings"

	"github.com/millrace-ml/millrace/models"
)

// maxFolders bounds the folders in a file's name, and with them how deep models nest: every level
// takes at least one.
const maxFolders = 16

// Store puts a model's files into folder dir.
func Store(files models.Files, dir string, m models.Model) error {
	inner, err := m.Files()
	if err != nil {
		return fmt.Errorf("storing %s: %w", dir, err)
	}
	for name, b := range inner {
		name = dir + "/" + name
		if strings.Count(name, "/") > maxFolders {
			return fmt.Errorf("storing %s: models nest too deep", dir)
		}
		files[name] = b
	}
	return nil
}

// Load loads the model of a kind from folder dir. It returns models.ErrFiles or
// models.ErrUnknownKind.
func Load(files models.Files, dir, kind string) (models.Model, error) {
	for name := range files {
		if strings.Count(name, "/") > maxFolders {
			return nil, fmt.Errorf("loading %s: models nest too deep: %w", dir, models.ErrFiles)
		}
	}
	k, err := models.Lookup(kind)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", dir, err)
	}
	m, err := k.Load(files.Sub(dir))
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", dir, err)
	}
	return m, nil
}

package connect

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestScheme(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"a/b.csv": "file", "/a:b": "file", "-": "-", "stdin:": "stdin", "file:///a": "file",
		"S3://b/k": "s3", "c:/x": "file", "simulate://fraud?days=3": "simulate", "1://x": "file",
	} {
		if got := Scheme(address); got != want {
			t.Errorf("Scheme(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"s3://user:hunter2/@bucket/key?token=sesame&region=eu",
		"s3://hunter2@bucket/key?sig=sesame",
		"http://user:hunter2/@host/%zz?key=sesame",
	} {
		err := Scrub(fmt.Errorf("opening %q with token=sesame: %w", address, fs.ErrNotExist), address)
		for _, text := range []string{Redact(address), err.Error(), fmt.Sprintf("%v %+v", err, err)} {
			if strings.Contains(text, "hunter2") || strings.Contains(text, "sesame") {
				t.Errorf("%q shows a secret", text)
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is no longer fs.ErrNotExist", err)
		}
	}
	if got := Redact("dir@x/file?a=b"); got != "dir@x/file?a=b" {
		t.Errorf("a path became %q", got)
	}
}

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
)

// console is where messages go: sentences for people, or JSON lines. A live line, which the next
// message replaces, is shown on terminals alone.
type console struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	live     bool // the cursor stands behind a live line

	level  slog.LevelVar
	format string
	log    *slog.Logger // of JSON lines; nil for sentences
}

func newConsole(w io.Writer) *console {
	c := &console{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		c.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return c
}

// setUp obeys the flags, and makes the console the end of slog. It is called after beam.Init, which
// sets a handler of its own.
func (c *console) setUp(level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return usageError{fmt.Errorf("--log-level %q: choose debug, info, warn or error", level)}
	}
	c.level.Set(l)
	o := &slog.HandlerOptions{Level: &c.level}
	var h slog.Handler
	switch c.format {
	case "text":
		h = slog.NewTextHandler(c, o)
	case "json":
		h = slog.NewJSONHandler(c, o)
		c.log = slog.New(h)
	default:
		return usageError{fmt.Errorf("--log-format %q: choose text or json", c.format)}
	}
	slog.SetDefault(slog.New(quieter{h}))
	return nil
}

// Write writes whole lines, in the place of the live line.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live {
		c.live = false
		fmt.Fprint(c.w, "\r\x1b[K")
	}
	return c.w.Write(p)
}

// show replaces the live line.
func (c *console) show(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = true
	fmt.Fprint(c.w, "\r\x1b[K"+line)
}

// clear takes the live line away.
func (c *console) clear() { _, _ = c.Write(nil) }

// say writes a message; attributes are for JSON alone, the sentence holds them.
func (c *console) say(sentence, message string, attrs ...any) {
	switch {
	case c.log != nil:
		c.log.Info(message, attrs...)
	case c.level.Level() <= slog.LevelInfo:
		fmt.Fprintln(c, sentence)
	}
}

// fail writes why the command has failed.
func (c *console) fail(lines ...string) {
	if c.format == "json" { // perhaps without a logger, if the call was wrong
		slog.New(slog.NewJSONHandler(c, nil)).Error(strings.Join(lines, " "))
		return
	}
	for _, line := range lines {
		fmt.Fprintln(c, line)
	}
}

// quieter lets messages of Beam and its runners pass only where debugging is asked for, since what a
// job has to say stands in its error.
type quieter struct{ slog.Handler }

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	if !q.Enabled(ctx, slog.LevelDebug) {
		frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		// What has no place came through package log, where a worker's logger ends that lost its runner.
		if r.PC == 0 || strings.HasPrefix(frame.Function, "github.com/apache/beam/") {
			return nil
		}
	}
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(a []slog.Attr) slog.Handler { return quieter{q.Handler.WithAttrs(a)} }
func (q quieter) WithGroup(name string) slog.Handler   { return quieter{q.Handler.WithGroup(name)} }

// beamLog takes what the SDK's workers log.
type beamLog struct{}

func (beamLog) Log(ctx context.Context, severity log.Severity, _ int, message string) {
	slog.Default().Log(ctx, slog.LevelDebug, message, "from", "beam", "severity", int(severity))
}

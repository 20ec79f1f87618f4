package flink

import (
	"regexp"
	"strings"

	"github.com/millrace-ml/millrace/transforms/connect"
)

// Cause is what a stack trace of Flink's says at its root, without Java's frames: what a stage of ours
// returned, if it was one, else the message of the innermost exception.
func Cause(trace string) string {
	// What a worker returned stands within the message of a Java exception, in the SDK's form: the frames
	// that it passed, each behind "caused by:", and last what the stage said.
	if i := strings.Index(trace, "process bundle failed for instruction"); i >= 0 {
		text := trace[i:]
		if end := javaFrame.FindStringIndex(text); end != nil {
			text = text[:end[0]]
		}
		if at := strings.LastIndex(text, "caused by:\n"); at >= 0 {
			text = text[at+len("caused by:\n"):]
		}
		return shorten(text)
	}
	lines := strings.Split(trace, "\n")
	root := ""
	for _, l := range lines {
		if said, ok := strings.CutPrefix(l, "Caused by: "); ok {
			if _, inner, ok := strings.Cut(said, ": "); ok {
				outer, more := strings.CutSuffix(root, inner)
				if more && !javaClass.MatchString(lastWord(outer)) {
					continue // it says of which program, which file
				}
			}
			root = said
		} else if root == "" {
			root = l
		}
	}
	// Only the innermost class is left out: its message says more than its name, unless it says nothing.
	if class, said, ok := strings.Cut(root, ": "); ok && javaClass.MatchString(class) && strings.TrimSpace(said) != "" {
		root = said
	}
	return shorten(root)
}

// lastWord is that of a text which goes on, as "a: b.CException: " does.
func lastWord(s string) string {
	s = strings.TrimSuffix(s, ": ")
	return s[strings.LastIndexByte(s, ' ')+1:]
}

var (
	javaFrame = regexp.MustCompile(`(?m)^(\tat |\s*\.\.\. \d+ more|Caused by: )`)
	javaClass = regexp.MustCompile(`^[\w.$]+(Exception|Error|Throwable)$`)
)

// shorten bounds a message, which may hold a whole plan.
func shorten(s string) string {
	s = strings.TrimSpace(s)
	const most = 1000
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " ..."
	}
	return s
}

func redact(address string) string          { return connect.Redact(address) }
func scrub(err error, address string) error { return connect.Scrub(err, address) }

// hopeless are the causes from which no restart helps, as they read in a stack trace, and what to do.
var hopeless = []struct {
	cause *regexp.Regexp
	say   string
}{
	{regexp.MustCompile(`shardstate: (foreign|corrupt) state|shardstate: shard too large`), ""},
	{regexp.MustCompile(`Cannot run program "docker"|Cannot (connect to the Docker daemon|find docker)|docker: not found`), dockerHint},
	{regexp.MustCompile(`Cannot run program ".*error=13,`), executeHint},
	{regexp.MustCompile(`Cannot run program "`), bootHint},
	{regexp.MustCompile(`exec format error`), "the worker was built for another machine: give worker_binary, built for the TaskManagers'"},
	{regexp.MustCompile(`InvalidClassException|NoSuchMethodError|IncompatibleClassChangeError|NoClassDefFoundError`), "the job server was made for another version of Flink than the cluster's"},
}

const (
	dockerHint  = "DOCKER needs docker on each TaskManager's machine, and its engine: start it there, or use EXTERNAL or PROCESS"
	executeHint = "the TaskManager may not execute it: make it executable (chmod +x), on a disk that isn't mounted noexec"
	bootHint    = "PROCESS needs Beam's boot on each TaskManager's machine, at the path that environment_config gives"
)

// hopelessAtFirst are those from which one helps once the job has worked, by environment.
var hopelessAtFirst = map[string]*regexp.Regexp{
	External: regexp.MustCompile(`UNAVAILABLE[^\n]*|UNIMPLEMENTED[^\n]*|Connection refused`),
	Process:  regexp.MustCompile(`Process died with exit code`),
}

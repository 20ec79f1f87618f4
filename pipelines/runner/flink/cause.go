package flink

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/transforms/connect"
)

// Cause is what a stack trace of Flink's says at its root, without Java's frames: what a stage of ours
// returned, if it was one, else the message of the innermost exception.
func Cause(trace string) string {
	// What a worker returned stands within the message of a Java exception, in the SDK's form: the frames
	// that it passed, each behind "caused by:", and last what the stage said.
	if i := strings.Index(trace, bundleFailed); i >= 0 {
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

// bundleFailed stands in what a Go worker returned.
const bundleFailed = "process bundle failed for instruction"

// again tells whether a job failed alike twice in a row, with an error of a Go worker: it has failed, was started
// again, and has come to the same.
func again(failures []failure) bool {
	if len(failures) < 2 {
		return false
	}
	last, before := failures[0], failures[1]
	return strings.Contains(last.Stacktrace, bundleFailed) && strings.Contains(before.Stacktrace, bundleFailed) &&
		Cause(last.Stacktrace) == Cause(before.Stacktrace) && execution(last.TaskName) > execution(before.TaskName)
}

var executionNumber = regexp.MustCompile(`execution #(\d+)$`)

// execution tells which one of a task it is, by its name as "sink (1/2) - execution #3", from 0; -1 where it doesn't
// say so. Two tasks that fail side by side are of the same number.
func execution(task string) int {
	m := executionNumber.FindStringSubmatch(task)
	if m == nil {
		return -1
	}
	n, _ := strconv.Atoi(m[1])
	return n
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
	{regexp.MustCompile(`Cannot run program "docker".*error[=:] ?2\b|Cannot find docker|docker: not found`), dockerHint},
	{regexp.MustCompile(`Cannot run program ".*error[=:] ?13\b`), executeHint},
	{regexp.MustCompile(`Cannot run program ".*error[=:] ?2\b`), bootHint}, // other numbers, as of too little memory, pass
	{regexp.MustCompile(`exec format error`), "the worker was built for another machine: give worker_binary, built for the TaskManagers'"},
	{regexp.MustCompile(`InvalidClassException|NoSuchMethodError|IncompatibleClassChangeError|NoClassDefFoundError`), "the job server was made for another version of Flink than the cluster's"},
}

const (
	dockerHint  = "DOCKER needs docker on each TaskManager's machine, and its engine: start it there, or use EXTERNAL or PROCESS"
	executeHint = "the TaskManager may not execute it: make it executable (chmod +x), on a disk that isn't mounted noexec"
	bootHint    = "PROCESS needs Beam's boot on each TaskManager's machine, at the path that environment_config gives"
)

func poolHint(address string) string {
	return fmt.Sprintf("no worker pool answers the TaskManagers at %s: start `boot --worker_pool` beside each of them, or give its address as environment_config", address)
}

// hopelessAtFirst are those from which one helps once the job has worked, by environment.
var hopelessAtFirst = map[string]*regexp.Regexp{
	External: regexp.MustCompile(`UNAVAILABLE[^\n]*|UNIMPLEMENTED[^\n]*|Connection refused`),
	Process:  regexp.MustCompile(`Process died with exit code`),
	Docker:   regexp.MustCompile(`Cannot connect to the Docker daemon`),
}
